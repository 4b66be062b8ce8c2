"""Repositories of the Hugging Face Hub, by huggingface_hub, which reads HF_TOKEN, HF_HUB_OFFLINE and HF_ENDPOINT."""

import re
from pathlib import Path

from model.errors import DownloadError

_NAME = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
_PATTERNS = (
    *("config.json", "preprocessor_config.json", "processor_config.json", "adapter_config.json"),
    *("model.safetensors", "*.index.json"),
)
_PICKLE = "pytorch_model.bin"
_USABLE = ("model.safetensors", _PICKLE, "adapter_config.json")  # an index or an adapter has an error of its own


def is_repository(name: str) -> bool:
    """Whether ``name`` has the form OWNER/NAME or OWNER/NAME@REVISION."""
    return _NAME.fullmatch(name) is not None


def fetch_repository(name: str, cache_dir: Path | None = None) -> Path:
    """Returns the folder of a repository, downloaded into ``cache_dir``/hub (None: the Hub's cache) on first use.

    Weights in a pickle are downloaded only if there is no safetensors file. Raises ``DownloadError``.
    """
    from huggingface_hub import snapshot_download  # takes a moment, and most models need no Hub

    found = _NAME.fullmatch(name)
    if found is None:
        raise DownloadError(f"{name} is not of the form OWNER/NAME or OWNER/NAME@REVISION")
    cache = None if cache_dir is None else cache_dir / "hub"
    try:
        for patterns in (_PATTERNS, (*_PATTERNS, _PICKLE)):
            folder = Path(
                snapshot_download(
                    found["repository"], revision=found["revision"], cache_dir=cache, allow_patterns=list(patterns)
                )
            )
            if (folder / "model.safetensors").exists():
                break
    except (OSError, ValueError) as error:  # the library's errors are of these types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DownloadError(
            f"{name} is not an existing path or a published model, and could not be fetched from the Hub: {reason}"
        ) from error
    if not any(file.name.startswith(_USABLE) for file in folder.glob("*")):
        raise DownloadError(
            f"{name} has neither model.safetensors nor {_PICKLE}; download what it has, with "
            f"`hf download {found['repository']} --local-dir mine`, and use the path of the weights"
        )
    return folder
