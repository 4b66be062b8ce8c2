"""The defaults of settings on platforms."""

from pathlib import Path

import pytest

from app.platforms import platform_defaults
from app.settings import Settings


def test_vertex_ai_sets_port_and_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HTTP_PORT": "8081", "HEALTH_ROUTE": "/h", "PREDICT_ROUTE": "/p"}.items():
        monkeypatch.setenv(f"AIP_{name}", value)
    settings = Settings()
    assert (settings.port, settings.host, set(settings.protocols)) == (8081, "0.0.0.0", {"vertex"})
    assert (settings.vertex_health_route, settings.vertex_predict_route) == ("/h", "/p")


def test_the_environment_takes_precedence_over_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_HTTP_PORT", "8081")
    monkeypatch.setenv("CONVNEXT_PORT", "9000")
    monkeypatch.setenv("CONVNEXT_PROTOCOLS", "vertex, kserve")
    assert (Settings().port, set(Settings().protocols)) == (9000, {"vertex", "kserve"})


@pytest.mark.parametrize(
    ("files", "model"),
    [
        ([], None),
        (["model.pth"], "model.pth"),
        (["config.json", "model.safetensors"], "."),
        (["a.pth", "b.pth"], "."),
        (["code.py"], None),
    ],
)
def test_sagemaker_serves_the_checkpoint_that_it_unpacked(tmp_path: Path, files: list[str], model: str | None) -> None:
    for name in files:
        (tmp_path / name).touch()
    found = platform_defaults({}, tmp_path)
    assert (found["port"], found["protocols"]) == ("8080", "sagemaker")
    assert found.get("model") == (str(tmp_path / model) if model else None)


def test_there_are_no_defaults_elsewhere(tmp_path: Path) -> None:
    assert platform_defaults({"PATH": "/bin"}, tmp_path / "missing") == {}
