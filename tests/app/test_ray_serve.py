"""What a replica reserves and uses, with a stand-in for Ray."""

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from app.settings import Settings


@pytest.fixture
def ray_serve(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """app.ray_serve, whose deployments only keep their options."""
    serve = SimpleNamespace(
        deployment=lambda **options: lambda replica: SimpleNamespace(bind=lambda: options),
        ingress=lambda: lambda replica: replica,
    )
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(serve=serve))
    monkeypatch.delitem(sys.modules, "app.ray_serve", raising=False)
    module = importlib.import_module("app.ray_serve")
    monkeypatch.delitem(sys.modules, "app.ray_serve")
    return module


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (4, 4), (64, 8)])
def test_a_replica_on_a_gpu_decodes_on_several_threads(
    ray_serve: ModuleType, monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    monkeypatch.setattr(ray_serve, "available_cores", lambda: cores)
    options: dict[str, Any] = ray_serve.build(Settings(device="cuda"))  # Any: as Ray has it
    assert options["ray_actor_options"] == {"num_cpus": threads, "num_gpus": 1}
    assert ray_serve.resolve(Settings(device="cuda:0")).decode_threads == threads


def test_a_replica_reserves_the_threads_that_are_set(ray_serve: ModuleType) -> None:
    options: dict[str, Any] = ray_serve.build(Settings(device="cuda", decode_threads=3))  # Any: as Ray has it
    assert options["ray_actor_options"] == {"num_cpus": 3, "num_gpus": 1}


def test_a_replica_on_a_cpu_uses_one_core_unless_set(ray_serve: ModuleType) -> None:
    resolved = ray_serve.resolve(Settings())
    assert (resolved.device, resolved.cpu_threads, resolved.decode_threads) == ("cpu", 1, 1)
    assert ray_serve.resolve(Settings(cpu_threads=3)).decode_threads == 3
