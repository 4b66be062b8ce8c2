"""Multipart bodies: what is accepted, however they are split, and what real clients send."""

import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.api.form import FormFile, FormFiles
from app.api.problems import InvalidRequest
from model.images.decode import is_image

FORM = "multipart/form-data; boundary=xyz"
FILE = b'Content-Disposition: form-data; name="file"; filename="a.png"\r\n'
PHOTO = b"\x89PNG\r\n\x1a\n\r\n--xy\r\n--xyzz\r\n--xyz-\r\n-\r\n\r\r\n\n\x00\xff"  # almost boundaries


def body(*parts: bytes, end: bytes = b"--xyz--\r\n") -> bytes:
    """A multipart body of ``parts``, each with its headers and the empty line after them."""
    return b"".join(b"--xyz\r\n" + part + b"\r\n" for part in parts) + end


def parse(chunks: Sequence[bytes], content_type: str = FORM) -> FormFile:
    form = FormFiles(content_type, "file", 1, is_image)
    for chunk in chunks:
        form.write(chunk)
    [file] = form.finish()
    return file


def outcome(chunks: Sequence[bytes]) -> bytes | None:
    """The content of the file, None if the body is rejected."""
    try:
        return bytes(parse(chunks).content)
    except InvalidRequest:
        return None


def split(data: bytes, positions: Sequence[int]) -> list[bytes]:
    cuts = [0, *sorted(positions), len(data)]
    return [data[start:end] for start, end in pairwise(cuts)]


def test_returns_the_name_and_content_of_the_file() -> None:
    file = parse([body(FILE + b"Content-Type: image/png\r\n\r\n" + PHOTO)])
    assert (file.name, bytes(file.content)) == ("a.png", PHOTO)


def test_a_split_at_any_byte_gives_the_same_result() -> None:
    whole = body(FILE + b"\r\n" + PHOTO)
    for position in range(len(whole) + 1):
        assert outcome(split(whole, [position])) == PHOTO, position
    assert outcome([whole[place : place + 1] for place in range(len(whole))]) == PHOTO


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([b"\r\n", b"--xyz", b"-", b"\r", b"\n", b"xyz", b"a"]) | st.binary(max_size=5)), st.data()
)
def test_any_split_of_any_file_gives_the_same_result(pieces: list[bytes], data: st.DataObject) -> None:
    content = b"".join(pieces)
    whole = body(FILE + b"\r\n" + content)
    expected = outcome([whole])
    if b"\r\n--xyz" not in b"\r\n" + content:
        assert expected == content
    positions = data.draw(st.lists(st.integers(0, len(whole)), max_size=12))
    assert outcome(split(whole, positions)) == expected


FRAGMENTS = st.sampled_from(
    [
        *(b"--xyz\r\n", b"--xyz--", b"--xyz", b"a" * 500, b"\r\n", b"\r", b"\n", b"-", b":"),
        *(FILE, FILE + b"\r\n", b"A: b\r\n", b"words"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAGMENTS, max_size=10), st.data())
@example([b"\r\n", b"words", b"--xyz\r\n", FILE + b"\r\n", b"\r\n", b"--xyz--"], None)
def test_malformed_bodies_have_one_outcome_however_they_are_split(
    fragments: list[bytes], data: st.DataObject | None
) -> None:
    whole = b"".join(fragments)
    expected = outcome([whole])
    assert outcome([whole[place : place + 1] for place in range(len(whole))]) == expected
    if data is not None:
        positions = data.draw(st.lists(st.integers(0, len(whole)), max_size=6))
        assert outcome(split(whole, positions)) == expected


def test_a_boundary_may_be_repeated_in_the_file_with_other_characters_after_it() -> None:
    content = b"\r\n--xyzX" * 1000
    whole = body(FILE + b"\r\n" + content)
    assert outcome([whole]) == content
    assert outcome(split(whole, range(0, len(whole), 7))) == content


def test_repeated_boundaries_are_parsed_in_linear_time() -> None:
    def cpu_s(size: int) -> float:
        whole = body(FILE + b"\r\n" + b"\r\n--xyzX" * (size // 8))
        started_at = time.process_time()
        assert outcome(split(whole, range(0, len(whole), 65_536))) is not None
        return time.process_time() - started_at

    assert cpu_s(8_000_000) < 8 * max(cpu_s(2_000_000), 0.05)  # 4 if linear, 16 if quadratic


@pytest.mark.parametrize("end", [b"", b"\\"])
def test_quotation_marks_without_end_are_parsed_in_linear_time(end: bytes) -> None:
    def cpu_s(value: bytes) -> float:
        part = b'Content-Disposition: form-data; name="file"; x="' + value + end + b"\r\n\r\n"
        form = FormFiles(FORM, "file", 40, is_image)
        started_at = time.process_time()
        form.write(body(*[part] * 40))
        return time.process_time() - started_at

    assert cpu_s(b'\\"' * 2000) < 8 * max(cpu_s(b"xx" * 2000), 0.05)


@pytest.mark.parametrize(
    "leading",
    [
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"This is a multi-part message in MIME format.\r\n",
        b"\r\na preamble\r\n--xy\r\n",
        b"a" * 998 + b"\r\n",
    ],
)
def test_what_precedes_the_first_boundary_is_ignored(leading: bytes) -> None:
    whole = leading + body(FILE + b"\r\n" + PHOTO)
    assert outcome([whole]) == PHOTO
    assert outcome([whole[place : place + 1] for place in range(len(whole))]) == PHOTO


@pytest.mark.parametrize("epilogue", [b"", b"\r\n", b"words\r\n", b"--xyz\r\n" + FILE + b"\r\nmore", b"\0" * 10_000])
def test_what_follows_the_closing_boundary_is_ignored(epilogue: bytes) -> None:
    assert outcome([body(FILE + b"\r\n" + PHOTO) + epilogue]) == PHOTO
    assert outcome([body(FILE + b"\r\n" + PHOTO), epilogue]) == PHOTO


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        b"words",
        b"a preamble" + body(FILE + b"\r\n" + PHOTO),
        b"a" * 999 + b"\r\n" + body(FILE + b"\r\n" + PHOTO),
        body(),
        body(FILE + b"\r\n" + PHOTO, end=b""),
        body(FILE + b"\r\n" + PHOTO, end=b"--xyz"),
        body(FILE + b"\r\n" + PHOTO, end=b"--xyz-"),
        body(FILE + b"\r\n" + PHOTO, end=b"--other--\r\n"),
        body(FILE.rstrip()),
        body(b"\r\n" + PHOTO),
        body(b"Content-Type: image/png\r\n\r\n" + PHOTO),
        body(b"Content-Disposition: form-data\r\n\r\n" + PHOTO),
        body(b"Content-Disposition: ;;;=\r\n\r\n" + PHOTO),
        body(b'Content-Disposition: form-data; name="file\r\n\r\n' + PHOTO),
        body(b": nothing\r\n" + FILE + b"\r\n" + PHOTO),
        body(b"a header with spaces: x\r\n" + FILE + b"\r\n" + PHOTO),
        body(b"X: " + b"y" * 10_000 + b"\r\n" + FILE + b"\r\n" + PHOTO),
        body(b"X: y\r\n" * 8 + FILE + b"\r\n" + PHOTO),
        body(FILE + b"\r\n" + PHOTO, FILE + b"\r\n" + PHOTO),
    ],
)
def test_rejects_malformed_bodies(malformed: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse([malformed])


@pytest.mark.parametrize(
    "disposition",
    [
        b'form-data; name="photo"; filename="a.png"',
        b'form-data; name="File"; filename="a.png"',
        b'form-data; name=""; filename="a.png"',
        b'form-data; name="file[x]"; filename="a.png"',
        b'form-data; name="file[0][0]"; filename="a.png"',
        b"form-data; name*=utf-8''file; filename=\"a.png\"",
        b"form-data; name*=punycode''file; filename*=idna''a",
        b'form-data; name="\xff\xfe"; filename="a.png"',
    ],
)
def test_rejects_parts_that_are_not_the_file(disposition: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse([body(b"Content-Disposition: " + disposition + b"\r\n\r\n" + PHOTO)])


@pytest.mark.parametrize(
    "disposition",
    [
        b'form-data; name="file"',
        b"form-data; name=file",
        b'form-data; name="file";',
        b'form-data ; name = "file"',
        b'FORM-DATA;NAME="file"',
        b'form-data;\tname="file"',
        b'attachment; name="file"',
        b'form-data; name="file[]"',
        b'form-data; name="file[0]"',
    ],
)
def test_a_part_without_a_file_name_is_a_file_if_it_is_an_image(disposition: bytes) -> None:
    image = b"\x89PNG\r\n\x1a\n" + PHOTO
    assert parse([body(b"Content-Disposition: " + disposition + b"\r\n\r\n" + image)]).content == image
    for text in (b"https://example.com/cat.jpg", b"", b"cat.jpg", "bäckerei".encode()[:2], "写".encode() * 200):
        with pytest.raises(InvalidRequest):
            parse([body(b"Content-Disposition: " + disposition + b"\r\n\r\n" + text)])


def test_binary_data_without_a_file_name_is_left_to_the_decoder() -> None:
    for content in (b"\0\0\0\x18ftypqt  ", b"\x1f\x8b\x08", b"\xff\xd7", "写真".encode() + b"\xff"):
        assert parse([body(b'Content-Disposition: form-data; name="file"\r\n\r\n' + content)]).content == content


def test_keeps_as_many_files_as_it_is_told_to() -> None:
    form = FormFiles(FORM, "photos", 2, is_image)
    part = FILE.replace(b'"file"', b'"photos"')
    form.write(body(part + b"\r\none", part + b"\r\ntwo"))
    assert [bytes(file.content) for file in form.finish()] == [b"one", b"two"]


@pytest.mark.parametrize("charset", ["punycode", "idna", "undefined", "unicode_escape", "base64", "rot13", "no-such"])
def test_never_decodes_with_a_charset_that_the_client_chooses(charset: str) -> None:
    part_type = f"Content-Type: text/plain; charset={charset}\r\n\r\n".encode()
    content = b"a" * 10_000 + b"-" + b"b" * 10_000  # takes punycode more than a minute
    started_at = time.process_time()
    file = parse([body(FILE + part_type + content)], f"{FORM}; charset={charset}")
    with pytest.raises(InvalidRequest):
        parse(
            [body(b'Content-Disposition: form-data; name="text"\r\n' + part_type + content)],
            f"{FORM}; charset={charset}",
        )
    assert file.content == content
    assert time.process_time() - started_at < 5


@pytest.mark.parametrize("encoding", [b"binary", b"8bit", b"base64", b"quoted-printable"])
def test_ignores_the_transfer_encoding_of_a_part(encoding: bytes) -> None:
    whole = body(FILE + b"Content-Transfer-Encoding: " + encoding + b"\r\n\r\n" + PHOTO)
    assert outcome([whole]) == PHOTO  # deprecated by RFC 7578, section 4.7


def test_accepts_up_to_eight_headers_in_any_order_and_case() -> None:
    headers = b"X: y\r\n" * 7 + FILE.replace(b"Content-Disposition", b"CONTENT-disposition")
    assert outcome([body(headers + b"\r\n" + PHOTO)]) == PHOTO


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (b'filename=""', ""),
        (b"filename=a.png", "a.png"),
        (b'filename="Gr\xc3\xb6\xc3\x9fe.png"', "Größe.png"),
        (b'filename="\xff.png"', "\ufffd.png"),
        (b'filename="a%22b%0D.png"', "a%22b%0D.png"),
        (b'filename="a;b.png"', "a;b.png"),
        (b'filename="a\\"b.png"', 'a"b.png'),
        (b"filename=\"a.png\"; filename*=utf-8''b.png", "b.png"),
        (b"filename*=UTF-8''na%C3%AFve%20photo.jpg", "naïve photo.jpg"),
        (b"filename=\"=?utf-8?B?bsOkLmpwZw==?=\"; filename*=utf-8''n%C3%A4.jpg", "nä.jpg"),  # .NET
        (b"filename*=utf-8'en'n%C3%A4.jpg; filename=\"n.jpg\"", "nä.jpg"),
        (b"filename*=iso-8859-1''%A3.png", "£.png"),
        (b"filename*=utf-8''%ff.png", "\ufffd.png"),
        (b"filename=\"a; filename*=utf-8''b\"", "a; filename*=utf-8''b"),
        (b"filename=\"a.png\"; filename*=punycode''b", "a.png"),
    ],
)
def test_file_names_are_utf8_unless_an_extended_one_has_another_charset(parameters: bytes, name: str) -> None:
    file = parse([body(b"Content-Disposition: form-data; name=file; " + parameters + b"\r\n\r\n" + PHOTO)])
    assert (file.name, bytes(file.content)) == (name, PHOTO)


@pytest.mark.parametrize(
    "parameters",
    [
        *("", ";", "; boundary", "; boundary=", '; boundary=""', f"; boundary={'x' * 257}", "; boundaries=x"),
        *(";" * 400, ';"' * 200, "; a=" * 100, "\\" * 400),
    ],
)
def test_rejects_a_content_type_without_a_usable_boundary_quickly(parameters: str) -> None:
    started_at = time.process_time()
    with pytest.raises(InvalidRequest):
        FormFiles("multipart/form-data" + parameters, "file", 1, is_image)
    assert time.process_time() - started_at < 5


@pytest.mark.parametrize("length", [1, 70, 71, 200])
def test_accepts_a_boundary_of_any_usual_length(length: int) -> None:
    boundary = "b" * length
    whole = body(FILE + b"\r\nphoto").replace(b"xyz", boundary.encode())
    assert parse([whole], f'multipart/form-data; boundary="{boundary}"').content == b"photo"
