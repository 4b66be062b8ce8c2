import dataclasses

import pytest

from training.recipe import RECIPES, Phase, Recipe


def test_phases_follow_each_other() -> None:
    recipe = Recipe(phases=(Phase(2, 64, 0.0, (0.5, 1.0)), Phase(1, 96, 0.0, (0.5, 1.0))))
    assert [recipe.phase_at(epoch).input_size for epoch in range(recipe.epochs)] == [64, 64, 96]
    with pytest.raises(IndexError, match="3 epochs"):
        recipe.phase_at(3)


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    recipe = Recipe(peak_lr=1.0, warm_up=10, decay=0.5)
    rates = [recipe.learning_rate(step, 100) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)


def test_the_end_may_move_while_the_rate_is_at_its_peak() -> None:
    recipe = Recipe()
    assert recipe.learning_rate(1000, 5000) == recipe.learning_rate(1000, 8000) == recipe.peak_lr


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_trains_beyond_the_size_that_is_served(name: str) -> None:
    recipe = RECIPES[name]
    sizes = [phase.input_size for phase in recipe.phases]
    assert sizes == sorted(sizes)
    assert 160 <= sizes[-1] <= 224
    assert recipe.config.patch_size == 8
    assert recipe.config.num_classes == 200
    assert dataclasses.replace(recipe, patch_size=4).config.patch_size == 4
