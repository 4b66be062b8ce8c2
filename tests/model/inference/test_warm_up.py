"""The warm-up lowers the batch size if memory is short, wherever that shows, and falls back to another precision."""

import logging
import threading
import weakref
from collections.abc import Callable

import pytest
import torch

from model.errors import DeviceLost, EngineError
from tests.model.inference.conftest import EngineOn
from tests.model.inference.fake_runtime import FakeRuntime

NO_ROOM: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("no room"),
    lambda: MemoryError("no room"),
    lambda: RuntimeError("MPS backend out of memory (MPS allocated: 17.91 GB)"),
    lambda: torch.AcceleratorError("CUDA error: out of memory"),
]


@pytest.mark.parametrize("no_room", NO_ROOM)
@pytest.mark.parametrize(("step", "room", "expected"), [(1, 5, 5), (2, 5, 4), (2, 3, 2), (1, 1, 1)])
def test_too_little_memory_lowers_the_batch_size(
    engine_on: EngineOn, step: int, room: int, expected: int, no_room: Callable[[], Exception]
) -> None:
    runtime = FakeRuntime(step, room)
    runtime.no_room = no_room
    engine = engine_on(runtime, max_batch_size=8)
    engine.warm_up()
    assert engine.max_batch_size == max(engine.batch_seconds) == expected


def test_a_size_must_fit_on_all_workers_at_the_same_time(engine_on: EngineOn) -> None:
    runtime = FakeRuntime(2, room=9, concurrency=2)
    runtime.barrier = threading.Barrier(2)
    engine = engine_on(runtime, max_batch_size=8)
    engine.warm_up()
    assert engine.max_batch_size == 4


@pytest.mark.parametrize(("room", "expected"), [(8, [1, 8]), (3, [1, 8, 4, 2]), (1, [1, 8, 4, 2])])
def test_only_the_smallest_and_the_largest_size_that_fits_are_run_before_tuning(
    engine_on: EngineOn, room: int, expected: list[int]
) -> None:
    runtime = FakeRuntime(2, room)
    engine_on(runtime, max_batch_size=8).warm_up()
    assert runtime.run_before_tuning == expected


def test_tuning_runs_on_a_thread_that_has_run_batches(engine_on: EngineOn) -> None:
    """What libraries prepare for a batch, they keep by thread."""
    runtime = FakeRuntime(concurrency=2)
    engine_on(runtime).warm_up()
    assert runtime.tuned_on in runtime.threads


def test_memory_that_tuning_needs_lowers_the_batch_size(engine_on: EngineOn) -> None:
    runtime = FakeRuntime(2)
    runtime.tuning_room = 3
    engine = engine_on(runtime, max_batch_size=8)
    engine.warm_up()
    assert runtime.tuned == [[1, 2, 4, 8], [1, 2, 4], [1, 2]]
    assert engine.max_batch_size == 2


def test_nothing_keeps_what_did_not_fit(engine_on: EngineOn, caplog: pytest.LogCaptureFixture) -> None:
    """An error refers to the activations of its batch; the records of the log are kept here, as they are in a queue."""
    caplog.set_level(logging.INFO)
    errors: list[weakref.ref[Exception]] = []

    class NoRoom(RuntimeError):
        pass

    def no_room() -> Exception:
        error = NoRoom("out of memory")
        errors.append(weakref.ref(error))
        return error

    runtime = FakeRuntime(2, room=3)
    runtime.no_room = no_room
    engine_on(runtime, max_batch_size=8).warm_up()
    assert [error() for error in errors] == [None, None]  # of 8 and 4 images


def test_too_little_memory_for_one_image_is_an_error(engine_on: EngineOn) -> None:
    with pytest.raises(EngineError):
        engine_on(FakeRuntime(room=0)).warm_up()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("no C compiler"), EngineError),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), DeviceLost),
        (RuntimeError("Triton Error [CUDA]: device-side assert triggered"), DeviceLost),
    ],
)
def test_other_failures_are_engine_errors(engine_on: EngineOn, error: Exception, expected: type[EngineError]) -> None:
    runtime = FakeRuntime()
    runtime.error = error
    with pytest.raises(expected, match=str(error).split(":")[-1]):
        engine_on(runtime).warm_up()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_size_must_have_finite_results(engine_on: EngineOn, cuda_device: Callable[..., None], size: int) -> None:
    """Libraries have other algorithms for other sizes."""
    cuda_device()
    runtime = FakeRuntime(2)
    runtime.overflowing_size = size
    engine = engine_on(runtime, FakeRuntime(2), device="cuda", max_batch_size=4)
    engine.warm_up()
    assert engine.precision == "bfloat16"


@pytest.mark.parametrize("bf16", [True, False])
def test_float16_falls_back_to_a_wider_range_if_results_are_not_finite(
    engine_on: EngineOn, cuda_device: Callable[..., None], bf16: bool
) -> None:
    cuda_device(bf16=bf16)
    runtime = FakeRuntime(2)
    runtime.value = float("inf")
    other = FakeRuntime(2)
    engine = engine_on(runtime, other, device="cuda", max_batch_size=4)
    assert engine.precision == "float16"
    engine.warm_up()
    assert engine.precision == ("bfloat16" if bf16 else "float32")
    assert (runtime.dtype, other.dtype) == (torch.float16, engine.dtype)
    assert engine.expected_rate > 0


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
def test_a_requested_precision_is_kept(engine_on: EngineOn, cuda_device: Callable[..., None], precision: str) -> None:
    cuda_device()
    runtime = FakeRuntime()
    runtime.value = float("nan")
    with pytest.raises(EngineError, match=precision):
        engine_on(runtime, device="cuda", precision=precision, max_batch_size=1).warm_up()
