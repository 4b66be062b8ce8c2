import pytest

from training.recipe import RECIPES, Phase, Recipe


def test_phase_at_returns_the_phases_in_order() -> None:
    recipe = Recipe(epochs=3, phases=(Phase(0.6, 64, (0.5, 1.0)), Phase(1.0, 96, (0.5, 1.0))))
    assert [recipe.phase_at(epoch).input_size for epoch in range(3)] == [64, 64, 96]
    with pytest.raises(IndexError, match="3 epochs"):
        recipe.phase_at(3)


def test_cpu_recipe_trains_most_epochs_at_128_pixels() -> None:
    recipe = RECIPES["cpu"]
    sizes = [recipe.phase_at(epoch).input_size for epoch in range(recipe.epochs)]
    assert sizes == [96] * 6 + [128] * 31 + [160] * 3


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    recipe = Recipe(peak_lr=1.0, warmup_steps=10, decay=0.5)
    rates = [recipe.learning_rate(step, 100) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)


@pytest.mark.parametrize("name", RECIPES)
def test_input_size_grows_to_at_most_the_served_size(name: str) -> None:
    recipe = RECIPES[name]
    sizes = [recipe.phase_at(epoch).input_size for epoch in range(recipe.epochs)]
    assert sizes == sorted(sizes)
    assert 160 <= sizes[-1] <= 224
    assert (recipe.network.patch_size, recipe.network.num_classes) == (8, 200)
