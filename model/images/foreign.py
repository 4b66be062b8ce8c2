"""describe: names the format of a file that is not an accepted image."""

_SIGNATURES = {
    b"\x1f\x8b": "gzip data",
    b"PK\x03\x04": "a ZIP archive",
    b"%PDF": "a PDF document",
    b"8BPS": "a Photoshop document",
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 image",
    b"\xff\x4f\xff\x51": "a JPEG 2000 image",
    b"\0\0\1\0": "a Windows icon",
    b"\x1aE\xdf\xa3": "a Matroska or WebM video",
    b"<svg": "an SVG image",
    b"<?xml": "an XML document, such as an SVG image",
    b"<": "an HTML document",
    b"{": "a JSON document",
    b"data:": "a data: URL",
    b"/9j/": "the base64 text of a JPEG image",
    b"iVBORw0KGgo": "the base64 text of a PNG image",
    b"UklGR": "the base64 text of a WebP image",
    b"R0lGOD": "the base64 text of a GIF image",
    b"=FF=D8=FF": "quoted-printable text of a JPEG image",
    b"=89PNG": "quoted-printable text of a PNG image",
    **dict.fromkeys(
        (b"\xef\xbf\xbd\xef\xbf\xbd", b"\xef\xbf\xbdPNG", b"\xc3\xbf\xc3\x98", b"\xc2\x89PNG"),
        "an image that was read as text and saved as UTF-8, which damages it",
    ),
}
_PREFIX_BYTES = 40


def describe(data: bytes) -> str | None:
    """What ``data`` is by its first bytes, such as "a PDF document"; None if it is not known."""
    start = data[:_PREFIX_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    found = next((name for signature, name in _SIGNATURES.items() if start.startswith(signature)), None)
    if found is not None:
        return found
    if data[4:8] == b"ftyp":
        return "an MP4 or QuickTime file"
    text = start.decode("ascii", "replace")
    return f"text that begins with {text[:20]!r}" if text.isprintable() and text.isascii() else None
