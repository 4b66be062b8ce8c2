"""ApiKeys: keys of the settings, and of a file that changes while the service runs."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app.api.keys import ApiKeys, NoKeys


def replace(path: Path, text: str) -> None:
    """Replaces a file as Kubernetes does: readers see the old content or the new."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("# keys of the team\none\n\n  two \r\n#three\nfo#ur\nschlüssel\n", encoding="utf-8")
    return path


def test_without_keys_none_is_required() -> None:
    keys = ApiKeys()
    assert not keys.required
    assert not keys.accept(b"", b"one")


def test_accepts_each_key_of_the_settings() -> None:
    keys = ApiKeys(["one", "two"])
    assert keys.required
    assert keys.accept(b"one")
    assert keys.accept(b"", b"two")
    assert not keys.accept(b"", b"three")
    assert not keys.accept()


def test_reads_one_key_per_line(keys_file: Path) -> None:
    keys = ApiKeys(path=keys_file)
    assert keys.required
    assert all(keys.accept(key.encode()) for key in ("one", "two", "fo#ur", "schlüssel"))
    assert not any(keys.accept(key) for key in (b"", b"three", b"#three", b"# keys of the team", b"one\ntwo"))


@pytest.mark.parametrize("change", [replace, Path.write_text])
def test_reads_a_file_again_that_was_replaced_or_changed_in_place(
    keys_file: Path, change: Callable[[Path, str], object]
) -> None:
    keys = ApiKeys(path=keys_file)
    change(keys_file, "six\n")
    assert keys.accept(b"six")
    assert not keys.accept(b"one")


def test_notices_a_change_of_the_same_size(keys_file: Path) -> None:
    keys = ApiKeys(path=keys_file)
    size_bytes = keys_file.stat().st_size
    keys_file.write_text("x" * size_bytes, encoding="utf-8")
    os.utime(keys_file, ns=(0, 0))
    assert keys.accept(b"x" * size_bytes)


def test_follows_a_link_to_another_file(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    link = tmp_path / "link"
    link.symlink_to("first")
    keys = ApiKeys(path=link)
    assert keys.accept(b"first")
    link.unlink()
    link.symlink_to("second")
    assert keys.accept(b"second")
    assert not keys.accept(b"first")


def test_keeps_the_last_keys_of_a_missing_file_and_warns_once(
    keys_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ApiKeys(path=keys_file)
    keys_file.unlink()
    assert all(keys.accept(b"one") for _ in range(3))
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    keys_file.write_text("eight", encoding="utf-8")
    assert keys.accept(b"eight")
    assert not keys.accept(b"one")
    keys_file.unlink()
    assert keys.accept(b"eight")
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 2


def test_accepts_nothing_while_the_file_is_empty(keys_file: Path) -> None:
    keys = ApiKeys(path=keys_file)
    replace(keys_file, "")
    assert keys.required
    assert not keys.accept(b"one")
    assert not keys.accept(b"")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        *((content, "keys") for content in (b"", b"\n\n", b"# one\n  # two\n")),
        *((content, "UTF-16") for content in ("one\n".encode("utf-16-le"), b"\xff\xfeo\0n\0e", b"o\0ne")),
        *((content, "UTF-16") for content in (b"\xff\xfe\0\xd8a\0", "one".encode("utf-32"))),
    ],
)
def test_a_file_without_keys_or_text_is_an_error_at_start(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(NoKeys, match=problem):
        ApiKeys(["one"], path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path: Path, encoding: str, newline: str) -> None:
    path = tmp_path / "keys"
    mark = "\ufeff" if encoding.endswith(("le", "be")) else ""
    path.write_bytes((mark + newline.join(["one", "# two", "schlüssel", ""])).encode(encoding))
    keys = ApiKeys(path=path)
    assert keys.accept(b"one")
    assert keys.accept("schlüssel".encode())
    assert not any(keys.accept(key) for key in (b"", b"two", b"\xef\xbb\xbfone", b"o\0n\0e\0"))


def test_keeps_the_last_keys_of_a_file_that_is_no_longer_text(keys_file: Path) -> None:
    keys = ApiKeys(path=keys_file)
    keys_file.write_bytes(b"\0" * 100)
    assert keys.accept(b"one")
    replace(keys_file, "six\n")
    assert keys.accept(b"six")
    assert not keys.accept(b"one")


def test_a_missing_file_is_an_error_at_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ApiKeys(path=tmp_path / "keys")


def test_no_key_is_logged(keys_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keys = ApiKeys(path=keys_file)
    replace(keys_file, "secret\n")
    assert keys.accept(b"secret")
    keys_file.unlink()
    assert keys.accept(b"secret")
    assert "secret" not in caplog.text
