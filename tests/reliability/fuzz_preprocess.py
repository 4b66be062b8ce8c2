"""Coverage-guided fuzzing of ``preprocess`` with atheris, which is not a dependency of the project.

    .venv/bin/uv pip install --python .venv atheris
    .venv/bin/python -m tests.reliability.fuzz_preprocess -max_total_time=600 CORPUS_FOLDER

Only Python code is instrumented: it explores the checks and the readers of metadata in ``model.images``, not the
decoders in C.
"""

import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # not a dependency

with atheris.instrument_imports(include=["model.images"]):
    from model.errors import ModelError
    from model.images.transform import Transform, preprocess

from tests.reliability.images import sources

_TRANSFORM = Transform(36, 32)


def check(data: bytes) -> None:
    """Anything but pixels or a ``ModelError`` is a finding."""
    try:
        preprocess(data, _TRANSFORM, max_image_pixels=1_000_000)
    except ModelError:
        return


def main() -> None:
    """Fuzzes; a folder among the arguments is first filled with valid files."""
    for folder in (Path(argument) for argument in sys.argv[1:] if Path(argument).is_dir()):
        for name, data in sources().items():
            (folder / name.replace(" ", "_")).write_bytes(data)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
