"""Which batch sizes are run for a number of images."""

from collections.abc import Iterable, Mapping, Sequence


def batch_sizes(largest: int, step: int) -> list[int]:
    """The batch sizes that are used up to ``largest``: each one if ``step`` is 1, else its powers."""
    if step == 1:
        return list(range(1, largest + 1))
    powers = (step**exponent for exponent in range(largest.bit_length()))
    return [*(size for size in powers if size < largest), largest]


def plan_batches(seconds: Mapping[int, float]) -> dict[int, tuple[int, ...]]:
    """For each number of images up to the largest size, the sizes to run at ``seconds`` each; the last is padded."""
    costs: dict[int, float] = {0: 0.0}
    plans: dict[int, tuple[int, ...]] = {0: ()}
    for count in range(1, max(seconds) + 1):
        totals = {size: cost + costs[max(0, count - size)] for size, cost in seconds.items()}
        best = min(totals, key=totals.__getitem__)
        costs[count], plans[count] = totals[best], (best, *plans[max(0, count - best)])
    return plans


def measured_sizes(sizes: Sequence[int]) -> list[int]:
    """The smallest, the middle and the largest one of ``sizes``, for measurements that take too long for each."""
    return sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]})


def nearest_size(measured: Iterable[int], size: int) -> int:
    """The ``measured`` size that is nearest to ``size`` by their ratio, the larger one of two."""
    return min(measured, key=lambda count: (max(count / size, size / count), -count))
