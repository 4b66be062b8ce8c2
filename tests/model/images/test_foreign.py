"""What files are that are no accepted images."""

import pytest

from model.images.foreign import describe


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x1f\x8b\x08", "gzip"),
        (b"\xef\xbb\xbf<?xml version", "XML"),
        (b" \r\n{", "JSON"),
        (b"\0\0\0\x1cftypmp42", "MP4"),
        (b"hello, world", "'hello, world'"),
    ],
)
def test_a_known_file_is_named(data: bytes, expected: str) -> None:
    assert expected in (describe(data) or "")


@pytest.mark.parametrize(
    "start", [b"\xff\xd8\xff\xe0\0\x10JFIF", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"]
)
@pytest.mark.parametrize(("encoding", "errors"), [("utf-8", "replace"), ("latin-1", "strict")])
def test_an_image_that_was_read_as_text_is_named(start: bytes, encoding: str, errors: str) -> None:
    assert "as text" in (describe(start.decode(encoding, errors).encode()) or "")


@pytest.mark.parametrize("data", [b"\0" * 100, b"\xff\xfe\xfd", b"\x7fELF", "bäckerei".encode()])
def test_an_unknown_file_has_no_name(data: bytes) -> None:
    assert describe(data) is None


def test_what_is_quoted_is_short() -> None:
    assert len(describe(b"a" * 10_000_000) or "") < 60
