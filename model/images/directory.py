"""Reads the first directory of a TIFF, BigTIFF or EXIF structure, entry by entry, without following other pointers."""

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

INTEGER_TYPES = (3, 4, 16)  # SHORT, LONG, LONG8
_TYPE_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)  # bytes, by field type
MAX_ENTRIES = 4096  # they are sorted: those about pixels are among the first
_MAX_INTEGERS = 64  # values of an entry that are read; no more samples or tables matter
_HEADER_SIZE = 16  # of a BigTIFF; no structure is shorter
_STRUCTS = {  # the number of entries, an entry, and the offset of the next directory, by what the file begins with
    b"II": (Struct("<H"), Struct("<HHL4s"), Struct("<L")),
    b"MM": (Struct(">H"), Struct(">HHL4s"), Struct(">L")),
    b"II+\0": (Struct("<Q"), Struct("<HHQ8s"), Struct("<Q")),
    b"MM\0+": (Struct(">Q"), Struct(">HHQ8s"), Struct(">Q")),
}
_INTEGERS = {
    order: {kind: Struct(order + code) for kind, code in ((1, "B"), (3, "H"), (4, "L"), (16, "Q"))} for order in "<>"
}


class Entry(NamedTuple):
    """An entry of a TIFF directory: ``length`` values of type ``kind``; ``value`` holds them, or where they are."""

    tag: int
    kind: int
    length: int
    value: bytes

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return self.length * (_TYPE_SIZES[self.kind] if self.kind < len(_TYPE_SIZES) else 0)


class Layout(NamedTuple):
    """A directory at ``offset``: the number of its entries, the entries from ``start``, the offset of the next one."""

    number: Struct
    entry: Struct
    next_offset: Struct
    offset: int
    start: int
    entries: int


def read_layout(data: bytes) -> Layout | None:
    """The layout of the first directory of ``data``; None if there is none. ``entries`` are those that are complete."""
    structs = _STRUCTS.get(data[:4]) or _STRUCTS.get(data[:2])
    if structs is None or len(data) < _HEADER_SIZE:
        return None
    number, entry, next_offset = structs
    (offset,) = next_offset.unpack_from(data, next_offset.size)
    start = offset + number.size
    if start > len(data):
        return None
    (count,) = number.unpack_from(data, offset)
    complete = (len(data) - start) // entry.size
    return Layout(number, entry, next_offset, offset, start, min(count, complete, MAX_ENTRIES))


def read_directory(data: bytes) -> Iterator[Entry]:
    """The entries of the first directory; those that the end of ``data`` cuts off are left out."""
    return (Entry(*values) for values in _unpack_entries(data))


def find_entry(data: bytes, tag: int) -> Entry | None:
    """The first entry of ``tag`` in the first directory."""
    return next((Entry(*values) for values in _unpack_entries(data) if values[0] == tag), None)


def _unpack_entries(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    layout = read_layout(data)
    if layout is None:
        return iter(())
    return layout.entry.iter_unpack(data[layout.start : layout.start + layout.entries * layout.entry.size])


def read_bytes(data: bytes, entry: Entry) -> bytes:
    """The values of ``entry`` as they are stored, as far as ``data`` has them."""
    if entry.size <= len(entry.value):
        return entry.value[: entry.size]
    offset = int.from_bytes(entry.value, "little" if data.startswith(b"II") else "big")
    return data[offset : offset + entry.size]


def read_integers(data: bytes, entry: Entry) -> tuple[int, ...]:
    """The first values of ``entry``; empty if they are no integers."""
    item = _INTEGERS["<" if data.startswith(b"II") else ">"].get(entry.kind)
    if item is None:
        return ()
    values = read_bytes(data, entry._replace(length=min(entry.length, _MAX_INTEGERS)))
    complete = len(values) // item.size * item.size
    return tuple(value for (value,) in item.iter_unpack(values[:complete]))


def read_tag_integers(data: bytes) -> dict[int, tuple[int, ...]]:
    """The first values of each tag; of a tag that occurs twice the first entry counts, as in libtiff."""
    found: dict[int, tuple[int, ...]] = {}
    for entry in read_directory(data):
        if entry.tag not in found:
            found[entry.tag] = read_integers(data, entry)
    return found
