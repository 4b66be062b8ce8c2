"""Defaults of settings on the platforms that run the image with their own variables and folders.

Sources: Google Cloud, "Custom container requirements for inference" (AIP_*); SageMaker AI Developer Guide, "Use Your
Own Inference Code with Hosting Services" (/opt/ml/model, port 8080).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

RequestFormat = Literal["open_inference", "kserve", "sagemaker", "vertex", "huggingface"]

SAGEMAKER_MODEL = Path("/opt/ml/model")
_CHECKPOINTS = ("*.safetensors", "*.pth", "*.pt", "*.bin")
_ANY_HOST = "0.0.0.0"  # noqa: S104 - the platform decides who reaches the container


def platform_defaults(
    environment: Mapping[str, str], sagemaker_model: Path = SAGEMAKER_MODEL
) -> dict[str, Any]:  # Any: values of settings
    """Defaults of ``Settings`` on Vertex AI or SageMaker; empty elsewhere."""
    if "AIP_HTTP_PORT" in environment:
        routes = {
            "vertex_health_route": environment.get("AIP_HEALTH_ROUTE"),
            "vertex_predict_route": environment.get("AIP_PREDICT_ROUTE"),
        }
        given = {name: route for name, route in routes.items() if route}
        return {"protocols": "vertex", "host": _ANY_HOST, "port": environment["AIP_HTTP_PORT"], **given}
    if sagemaker_model.is_dir():
        port = environment.get("SAGEMAKER_BIND_TO_PORT", "8080")
        return {"protocols": "sagemaker", "host": _ANY_HOST, "port": port, **_model_in(sagemaker_model)}
    return {}


def _model_in(folder: Path) -> dict[str, str]:
    """The checkpoint that SageMaker has unpacked: the folder with a configuration, or its only checkpoint file."""
    if (folder / "config.json").exists():
        return {"model": str(folder)}
    files = [path for pattern in _CHECKPOINTS for path in sorted(folder.glob(pattern))]
    return {"model": str(files[0] if len(files) == 1 else folder)} if files else {}
