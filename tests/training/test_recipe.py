import pytest

from training.recipe import RECIPES, Phase, Recipe


def test_phase_changes_with_the_decay() -> None:
    stable, decay = Phase((64,), (0.5, 1.0)), Phase((96,), (0.5, 1.0))
    recipe = Recipe(steps=3, decay_steps=1, stable=stable, decay=decay)
    assert [recipe.phase_at(step) for step in range(3)] == [stable, stable, decay]


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    recipe = Recipe(steps=100, decay_steps=50, peak_lr=1.0, warmup_steps=10)
    rates = [recipe.learning_rate(step) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)


def test_learning_rate_before_the_decay_does_not_depend_on_the_length_of_the_run() -> None:
    short, long = Recipe(steps=1_000, decay_steps=100), Recipe(steps=50_000, decay_steps=5_000)
    assert [short.learning_rate(step) for step in range(900)] == [long.learning_rate(step) for step in range(900)]


def test_horizon_of_the_average_fits_the_decay() -> None:
    assert Recipe(decay_steps=4_000).ema_decay == pytest.approx(1 - 1 / 200)
    assert Recipe(decay_steps=10).ema_decay == 0.5


@pytest.mark.parametrize("name", RECIPES)
def test_input_size_grows_to_at_most_the_served_size(name: str) -> None:
    recipe = RECIPES[name]
    assert max(recipe.stable.input_sizes) < max(recipe.decay.input_sizes) <= 224
    assert 0 < recipe.decay_steps < recipe.steps
    assert (recipe.network.patch_size, recipe.network.num_classes) == (8, 200)
