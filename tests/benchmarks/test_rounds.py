from benchmarks.rounds import alternate, median_seconds, ratios, spread


def test_contenders_take_turns_and_the_order_turns_around():
    order = []

    def contender(name: str) -> float:
        order.append(name)
        return float(len(order))

    figures = alternate({name: lambda name=name: contender(name) for name in "ab"}, rounds=3)
    assert "".join(order) == "abbaab"
    assert figures == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_a_ratio_is_taken_within_its_round():
    figures = {"ours": [2.0, 9.0], "theirs": [1.0, 3.0]}
    assert ratios(figures, "ours", "theirs") == [2.0, 3.0]
    assert spread([3.0, 1.0, 2.0], 1) == "2.0 (1.0–3.0)"


def test_the_first_call_is_not_counted():
    calls = []
    assert median_seconds(lambda: calls.append(None), 0.0) >= 0
    assert len(calls) == 2
