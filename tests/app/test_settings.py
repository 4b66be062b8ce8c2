"""Settings: where they come from, which values are rejected, and that they cannot be changed."""

from typing import Any

import pydantic
import pytest

from app.settings import Settings


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_description(name: str) -> None:
    assert (Settings.model_fields[name].description or "").endswith(".")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [("CONVNEXT_MAX_QUEUE_DELAY_MS", "2.5", 2.5), ("CONVNEXT_COMPILE", "true", True), ("convnext_port", "0", 0)],
)
def test_reads_settings_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: object
) -> None:
    monkeypatch.setenv(variable, value)
    assert getattr(Settings(), variable.lower().removeprefix("convnext_")) == expected


def test_arguments_take_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVNEXT_TOP_K", "3")
    assert Settings(top_k=4).top_k == 4


@pytest.mark.parametrize("name", ["CONVNEXT_TOPK", "convnext_batch_size", "CONVNEXT_"])
def test_rejects_an_unknown_variable_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "3")
    with pytest.raises(pydantic.ValidationError) as caught:
        Settings()
    assert [(error["loc"], error["type"]) for error in caught.value.errors()] == [((name.upper(),), "extra_forbidden")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "tpu"),
        ("device", "cuda:x"),
        ("precision", "int8"),
        ("top_k", 0),
        ("max_batch_size", 0),
        ("max_queue_size", 0),
        ("max_queue_delay_ms", -1),
        ("request_timeout_s", 0),
        ("request_timeout_s", float("inf")),
        ("decode_timeout_s", float("inf")),
        ("max_queue_wait_s", float("inf")),
        ("shutdown_grace_s", 1e9),
        ("max_upload_bytes", 0),
        ("max_image_pixels", 0),
        ("decode_threads", 0),
        ("model", ""),
        ("port", 65536),
        ("log_level", "loud"),
        ("unknown", 1),
        *(("api_keys", text) for text in (",", " , ", ",,")),
        *(("cors_origins", text) for text in ("https://shop.example/", "shop.example", "https://shop.example/path")),
        *(("frame_ancestors", text) for text in ("none, self", "**", "https://", "https://ä.example")),
        *(("frame_ancestors", f"https://a.example{more}") for more in ("; script-src *", "/path", "\r\nX:")),
        ("frame_ancestors", "'unsafe-inline'"),
    ],
)
def test_rejects_a_value_out_of_range_by_name(name: str, value: Any) -> None:  # Any: values of different types
    with pytest.raises(pydantic.ValidationError) as caught:
        Settings(**{name: value})
    assert {error["loc"][0] for error in caught.value.errors()} == {name}


def test_settings_cannot_be_changed() -> None:
    settings = Settings()
    with pytest.raises(pydantic.ValidationError):
        settings.top_k = 3  # type: ignore[misc]  # mypy knows that it is read-only
    assert settings.top_k == 5


@pytest.mark.parametrize("text", ["one,two", " one , two,", "two,one,one"])
def test_api_keys_are_separated_by_commas_and_not_shown(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CONVNEXT_API_KEYS", text)
    settings = Settings()
    assert {key.get_secret_value() for key in settings.api_keys} == {"one", "two"}
    assert "one" not in repr(settings).replace("None", "")


@pytest.mark.parametrize("text", ["", " "])
def test_empty_api_keys_count_as_not_set(text: str) -> None:
    assert Settings.model_validate({"api_keys": text}).api_keys == frozenset()


@pytest.mark.parametrize(
    "values",
    [{"max_buffered_bytes": 10, "max_upload_bytes": 11}, {"max_queue_size": 7, "max_batch_size": 8}],
)
def test_rejects_contradictory_settings_by_name(values: dict[str, Any]) -> None:  # Any: as a model's arguments
    with pytest.raises(pydantic.ValidationError) as caught:
        Settings(**values)
    [error] = caught.value.errors()
    assert all(f"CONVNEXT_{name.upper()}" in error["msg"] for name in values)


@pytest.mark.parametrize(("cores", "threads"), [(1, [1, 1, 1]), (3, [1, 1, 1]), (8, [3, 3, 2]), (12, [4, 4, 4])])
def test_workers_share_cores_and_limits(cores: int, threads: list[int]) -> None:
    settings = Settings(workers=3, max_queue_size=100, max_buffered_bytes=90_000_000, max_connections=1000)
    shares = [settings.share(number, cores) for number in (1, 2, 3)]
    assert [share.cpu_threads for share in shares] == [share.decode_threads for share in shares] == threads
    assert {(share.max_queue_size, share.max_buffered_bytes, share.max_connections) for share in shares} == {
        (33, 30_000_000, 333)
    }


def test_threads_that_are_set_are_those_of_each_worker() -> None:
    share = Settings(workers=2, cpu_threads=5, decode_threads=7).share(1, 4)
    assert (share.cpu_threads, share.decode_threads) == (5, 7)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_buffered_bytes": 59_999_999, "max_upload_bytes": 20_000_000},
        {"max_queue_size": 23, "max_batch_size": 8},
        {"max_queue_size": 2},
        {"max_connections": 2},
    ],
)
def test_rejects_limits_whose_share_is_too_small(limits: dict[str, Any]) -> None:  # Any: settings
    with pytest.raises(pydantic.ValidationError):
        Settings(workers=3, **limits)
