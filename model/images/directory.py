"""Reads the first directory of a TIFF, BigTIFF or EXIF structure, entry by entry, without following other pointers."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

INTEGER_TYPES = (3, 4, 16)  # SHORT, LONG, LONG8
_TYPE_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)  # bytes, by field type
_MAX_ENTRIES = 4096  # they are sorted: those about pixels are among the first
_MAX_INTEGERS = 64  # values of an entry that are read; no more samples or tables matter


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

    order: str
    count_format: str
    entry_format: str
    offset_size: int
    offset: int
    start: int
    entries: int


def read_layout(data: bytes) -> Layout | None:
    """The layout of the first directory of ``data``; None if there is none. ``entries`` are those that are complete."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return None
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    (offset,) = struct.unpack_from(f"{order}Q", data, 8) if big else struct.unpack_from(f"{order}L", data, 4)
    count_format, entry_format = (f"{order}Q", f"{order}HHQ8s") if big else (f"{order}H", f"{order}HHL4s")
    start = offset + struct.calcsize(count_format)
    if start > len(data):
        return None
    (count,) = struct.unpack_from(count_format, data, offset)
    complete = (len(data) - start) // struct.calcsize(entry_format)
    return Layout(order, count_format, entry_format, 8 if big else 4, offset, start, min(count, complete, _MAX_ENTRIES))


def read_directory(data: bytes) -> Iterator[Entry]:
    """The entries of the first directory; those that the end of ``data`` cuts off are left out."""
    layout = read_layout(data)
    if layout is not None:
        end = layout.start + layout.entries * struct.calcsize(layout.entry_format)
        for values in struct.iter_unpack(layout.entry_format, data[layout.start : end]):
            yield Entry(*values)


def read_bytes(data: bytes, entry: Entry) -> bytes:
    """The values of ``entry`` as they are stored, as far as ``data`` has them."""
    if entry.size <= len(entry.value):
        return entry.value[: entry.size]
    offset = int.from_bytes(entry.value, "little" if data.startswith(b"II") else "big")
    return data[offset : offset + entry.size]


def read_integers(data: bytes, entry: Entry) -> tuple[int, ...]:
    """The first values of ``entry``; empty if they are no integers."""
    code = {1: "B", 3: "H", 4: "L", 16: "Q"}.get(entry.kind)
    if code is None:
        return ()
    values = read_bytes(data, entry._replace(length=min(entry.length, _MAX_INTEGERS)))
    item = struct.Struct(("<" if data.startswith(b"II") else ">") + code)
    complete = len(values) // item.size * item.size
    return tuple(value for (value,) in item.iter_unpack(values[:complete]))


def read_tag_integers(data: bytes) -> dict[int, tuple[int, ...]]:
    """The first values of each tag; of a tag that occurs twice the first entry counts, as in libtiff."""
    found: dict[int, tuple[int, ...]] = {}
    for entry in read_directory(data):
        if entry.tag not in found:
            found[entry.tag] = read_integers(data, entry)
    return found
