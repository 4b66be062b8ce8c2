"""Unpickles training checkpoints without executing code from the file.

Objects that are not needed, such as dates, paths, losses and optimizers, become placeholders, which store nothing.
What could execute code is rejected by name.
"""

import argparse
import collections
import importlib
import pickle
import sys
import types
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

_BUILTINS = (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
_REBUILD = ("_rebuild_parameter", "_rebuild_tensor", "_rebuild_tensor_v2")
_DATA_MODULES = {
    *("argparse", "collections", "datetime", "decimal", "enum", "fractions", "pathlib", "typing", "uuid", "zoneinfo"),
}
_DATA_NAMES = {
    *("types.SimpleNamespace", "functools.partial"),
    *("builtins.slice", "builtins.range", "__builtin__.slice", "__builtin__.xrange"),
}
_SKIPPED = ("torch.nn.modules.", "torch.optim.")  # losses, optimizers and networks among the options of Lightning


class ForbiddenGlobal(pickle.UnpicklingError):
    """The pickle names something that is not data; ``name`` is its full name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Placeholder:
    """An object whose class is not imported; ``origin`` is the full name of the class."""

    origin = ""
    dump_patches = False  # torch.load asks it of the classes of modules in files before version 1.6

    def __new__(cls, *_args: object, **_options: object) -> "Placeholder":
        """Ignores the arguments."""
        return object.__new__(cls)

    def __init__(self, *_args: object, **_options: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        pass

    def append(self, _item: object) -> None:
        """Ignores an item of a list."""

    def extend(self, _items: object) -> None:
        """Ignores the items of a list."""


class DataUnpickler(pickle.Unpickler):
    """Builds tensors, arrays and containers, and placeholders for other objects (Python's "Restricting Globals")."""

    def find_class(self, module: str, name: str) -> Any:  # Any: as the base class has it
        """What ``module.name`` stands for. Raises ``ForbiddenGlobal``."""
        full = f"{module}.{name}"
        if full in _ALLOWED:
            return _ALLOWED[full]
        package = module.partition(".")[0]
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if package == "numpy":
            return _numpy_global(module, name)
        is_data = package in _DATA_MODULES or full in _DATA_NAMES or module.startswith(_SKIPPED)
        if not is_data and (package in ("torch", "nt", "posix", "__builtin__") or package in sys.stdlib_module_names):
            raise ForbiddenGlobal(full)
        return _placeholder(full)


def load_data(path: Path, *, mapped: bool) -> Any:  # Any: unpickled content
    """The content of a ``torch.save`` file with tensors on the CPU.

    Raises ``ForbiddenGlobal`` and, of a corrupt file, errors of many types.
    """
    module = types.ModuleType("restricted_pickle")
    vars(module).update(Unpickler=DataUnpickler, load=_load)
    with path.open("rb") as file:
        source = path if mapped else file
        return torch.load(source, map_location="cpu", weights_only=False, mmap=mapped, pickle_module=module)


def _load(file: IO[bytes], **options: Any) -> Any:  # Any: as pickle.load has it
    return DataUnpickler(file, **options).load()


def _placeholder(origin: str) -> type[Placeholder]:
    return type("Placeholder", (Placeholder,), {"origin": origin})


def _numpy_global(module: str, name: str) -> Any:  # Any: classes and functions
    if name in ("_reconstruct", "scalar") and module.endswith(".multiarray"):
        return _ARRAY_FUNCTIONS[name]
    if module == "numpy" and name in ("ndarray", "dtype"):
        return getattr(np, name)
    if module == "numpy.dtypes" and isinstance(kind := getattr(np.dtypes, name, None), type):
        return kind
    return _placeholder(f"{module}.{name}")


def _rebuild_object(kind: object, *_arguments: object) -> Placeholder:
    """Stands for ``copyreg._reconstructor``."""
    if not isinstance(kind, type) or not issubclass(kind, Placeholder):
        raise pickle.UnpicklingError(f"unexpected object of type {kind!r}")
    return kind()


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    """Stands for ``_codecs.encode``, with which NumPy stores bytes."""
    if encoding not in ("latin1", "utf-8", "ascii"):
        raise pickle.UnpicklingError(f"unexpected encoding {encoding!r}")
    return text.encode(encoding)


def _allowed() -> dict[str, Any]:  # Any: classes and functions
    kinds = (collections.OrderedDict, collections.defaultdict, collections.Counter)
    found: dict[str, Any] = {f"collections.{kind.__name__}": kind for kind in kinds}  # Any: as above
    for kind in _BUILTINS:
        found[f"builtins.{kind.__name__}"] = found[f"__builtin__.{kind.__name__}"] = kind
    rebuild = importlib.import_module("torch._utils")  # the functions that files of torch.save name
    found |= {f"torch._utils.{name}": getattr(rebuild, name) for name in _REBUILD}
    found |= {
        "__builtin__.long": int,  # the names of Python 2, in which torch.save writes them
        "__builtin__.unicode": str,
        "torch.Size": torch.Size,
        "torch.device": torch.device,
        "torch.nn.parameter.Parameter": torch.nn.Parameter,
        "argparse.Namespace": argparse.Namespace,
    }
    return found | {"copyreg._reconstructor": _rebuild_object, "_codecs.encode": _encode}


_ARRAY_FUNCTIONS = {  # by which NumPy says that arrays and scalars are built
    "_reconstruct": np.zeros(1).__reduce__()[0],
    "scalar": np.float64(0).__reduce__()[0],
}
_ALLOWED = _allowed()
