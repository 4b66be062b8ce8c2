"""Ray Serve: the same application in replicas that Ray starts, restarts and scales.

serve run app.ray_serve:app                          # with CONVNEXT_* in the environment
serve build app.ray_serve:app --output-path ray.yml  # the same as a file: GPU fraction, number of replicas
"""

from typing import Any

from fastapi import FastAPI
from ray import serve

from app.main import create_app
from app.settings import Settings
from model.inference.cpu import available_cores

MAX_REPLICAS = 8
GPU_DECODE_THREADS = 8  # a GPU classifies more images than one core decodes


def resolve(settings: Settings) -> Settings:
    """``settings`` with device, batch size and threads of one replica made explicit.

    Ray hides the GPUs from a replica that reserves none, and it does not restrict the cores that a replica may use:
    both are decided here, once, so that what is reserved is what is used.
    """
    on_gpu = settings.device.startswith("cuda")
    cores = settings.cpu_threads or 1
    decode_threads = min(GPU_DECODE_THREADS, available_cores()) if on_gpu else cores
    return settings.model_copy(
        update={
            "device": "cuda" if on_gpu else "cpu",
            "max_batch_size": settings.max_batch_size or (64 if on_gpu else 8),
            "cpu_threads": cores,
            "decode_threads": settings.decode_threads or decode_threads,
        }
    )


def deployment_options(settings: Settings) -> dict[str, Any]:  # Any: as Ray has it
    """Ray's options for resolved ``settings``.

    A replica batches the requests that it has at the same time. Two batches keep it busy: one in the engine, one being
    decoded. Autoscaling aims at those; twice as many are the most that Ray sends to a replica, so that bursts fill
    batches while more replicas start. Further requests wait in Ray's proxy, up to ``max_queue_size``; more get a 503.
    """
    batch = settings.max_batch_size or 1
    on_gpu = settings.device == "cuda"
    return {
        "name": "convnext-serve",
        "max_ongoing_requests": 4 * batch,
        "max_queued_requests": settings.max_queue_size,
        "autoscaling_config": {
            "min_replicas": 1,
            "max_replicas": MAX_REPLICAS,
            "target_ongoing_requests": 2 * batch,
        },
        "ray_actor_options": {
            "num_cpus": settings.decode_threads if on_gpu else settings.cpu_threads,
            "num_gpus": 1 if on_gpu else 0,
        },
        "graceful_shutdown_timeout_s": settings.shutdown_grace_s,
    }


def build(settings: Settings, **options: Any) -> Any:  # Any: as Ray has it
    """The application for ``serve.run``; ``options`` replace those of ``deployment_options``.

    The replicas get ``settings``, whatever the environment of their machine.
    """
    settings = resolve(settings)

    class Replica:
        def __init__(self) -> None:
            self._app = create_app(settings)

        def __serve_build_asgi_app__(self) -> FastAPI:  # named by serve.ingress()
            return self._app

        def check_health(self) -> None:
            """Called by Ray, which replaces the replica if this raises: the liveness probe."""
            service = self._app.state.context.service
            if service is not None and service.status == "failed":
                raise RuntimeError("the device is lost or a thread is stuck")

    return serve.deployment(**deployment_options(settings) | options)(serve.ingress()(Replica)).bind()


app = build(Settings())
