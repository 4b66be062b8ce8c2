from functools import partial

from benchmarks.rounds import alternate, median_seconds, ratios, spread


def test_order_of_contenders_is_reversed_every_round() -> None:
    order = []

    def contender(name: str) -> float:
        order.append(name)
        return float(len(order))

    figures = alternate({name: partial(contender, name) for name in "ab"}, rounds=3)
    assert "".join(order) == "abbaab"
    assert figures == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_ratio_is_taken_within_each_round() -> None:
    figures = {"a": [2.0, 9.0], "b": [1.0, 3.0]}
    assert ratios(figures, "a", "b") == [2.0, 3.0]


def test_spread_states_median_and_range() -> None:
    assert spread([3.0, 1.0, 2.0], 1) == "2.0 (1.0–3.0)"


def test_first_call_is_not_counted() -> None:
    calls: list[None] = []
    assert median_seconds(lambda: calls.append(None), 0.0) >= 0
    assert len(calls) == 2
