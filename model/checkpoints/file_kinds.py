"""Names the format of a file that cannot be loaded, and how to export one that can."""

import struct
import zipfile
from pathlib import Path

_EXPORT = "export the network with torch.save(network.state_dict(), 'mine.pth')"
_STARTS = {
    b"\x89HDF\r\n\x1a\n": f"a Keras or HDF5 file; load it in PyTorch, for example with timm, and {_EXPORT}",
    b"\x1f\x8b": "a gzip archive; unpack it (tar xf) and use the weights file in it",
    b"BZh": "a bzip2 archive; unpack it (tar xf) and use the weights file in it",
    b"\xfd7zXZ\x00": "an xz archive; unpack it (tar xf) and use the weights file in it",
    b"7z\xbc\xaf'\x1c": "a 7z archive; unpack it and use the weights file in it",
    b"Rar!": "a RAR archive; unpack it and use the weights file in it",
    b"GGUF": f"a GGUF file; {_EXPORT}",
    b"version https://git-lfs": "a Git LFS pointer; download the file with `git lfs pull`",
    b"\x93NUMPY": f"a NumPy array; {_EXPORT}",
}


def name_kind(start: bytes, path: Path) -> str:
    """Says what a file that is neither safetensors nor torch.save is, of its first 512 bytes."""
    if not start:
        return "it is empty"
    for magic, kind in _STARTS.items():
        if start.startswith(magic):
            return f"it is {kind}"
    if start[257:262] == b"ustar":
        return "it is a tar archive; unpack it (tar xf) and use the weights file in it"
    if path.suffix.lower() == ".onnx" or (start[:1] == b"\x08" and b"pytorch" in start[:64]):
        return f"it is an ONNX file; {_EXPORT} where it was exported"
    if start[4:8] == b"TFL3":
        return f"it is a TensorFlow Lite file; {_EXPORT} where it was converted"
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "it is an HTML page"
    return f"it starts with {start[:8]!r}"


def name_archive(path: Path) -> str | None:
    """Says what a zip archive is that torch.save did not write; None if torch.save did, or if it is corrupt."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, OSError):  # of damaged archives
        return None
    tails = {name.partition("/")[2] for name in names}
    if any(tail.startswith("code/") for tail in tails) and "constants.pkl" in tails:
        return f"a TorchScript file; {_EXPORT}, or torch.save(torch.jit.load(path).state_dict(), 'mine.pth')"
    if any(name.endswith(("serialized_exported_program.json", "archive_format")) for name in names) or any(
        tail.startswith("models/") for tail in tails
    ):
        return f"a program of torch.export; {_EXPORT}, or torch.save(torch.export.load(path).state_dict, 'mine.pth')"
    if "data.pkl" in tails or "data.pkl" in names:
        return None
    if "model.weights.h5" in names:
        return f"a Keras file; load it in PyTorch, for example with timm, and {_EXPORT}"
    if names and all(name.endswith(".npy") for name in names):
        return f"a NumPy archive, not a torch.save file; {_EXPORT}"
    return f"a zip archive of {', '.join(names[:3])}, not a torch.save file; unpack it and use the weights file in it"
