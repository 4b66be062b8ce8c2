"""libtiff prints warnings and errors about broken files to stderr, past Python's logging; this silences it.

Pillow has no function for it, so the handlers are set in the libtiff that its wheel brings along.
"""

import ctypes
import logging
from pathlib import Path

import PIL

logger = logging.getLogger(__name__)


def silence_libtiff() -> None:
    """Removes libtiff's handlers for warnings and errors, or warns if the library is not found."""
    folder = Path(PIL.__file__).parent
    for path in [*folder.parent.glob("pillow.libs/libtiff*.so*"), *folder.glob(".dylibs/libtiff*.dylib")]:
        library = ctypes.CDLL(str(path))
        library.TIFFSetWarningHandler(None)
        library.TIFFSetErrorHandler(None)
        return
    logger.warning("Pillow's libtiff was not found; it prints warnings about broken TIFF files to stderr")
