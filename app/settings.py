"""Settings: read once from CONVNEXT_* environment variables or the command line, validated, frozen."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, StringConstraints, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from app.platforms import RequestFormat, platform_defaults
from model import DEFAULT_MODEL

PREFIX = "CONVNEXT_"
Origin = Annotated[str, StringConstraints(pattern=r"^(\*|null|[a-z][a-z0-9+.-]*://[^/?#]+)$")]
"""As a browser sends it: a trailing slash would never match."""
Ancestor = Annotated[
    str,
    StringConstraints(
        pattern=r"^('self'|\*|[a-z][a-z0-9+.-]*:"
        r"|([a-z][a-z0-9+.-]*://)?(\*\.)?[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*(:([0-9]+|\*))?)$"
    ),
]
"""A source of the directive frame-ancestors (Content Security Policy Level 3): a keyword, a scheme or a host."""


class _StrictEnvironment(EnvSettingsSource):
    """The environment, including unknown CONVNEXT_ names, so that a misspelled one is an error and not ignored."""

    def __call__(self) -> dict[str, Any]:  # Any: as the base class has it
        known = {f"{PREFIX}{name}".lower() for name in self.settings_cls.model_fields}
        unknown = [name for name in self.env_vars if name.lower().startswith(PREFIX.lower()) and name not in known]
        return super().__call__() | {name.upper(): self.env_vars[name] for name in unknown}


class Settings(BaseSettings):
    """Everything that can be configured; each field is the variable CONVNEXT_NAME and the option --name."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", protected_namespaces=()
    )

    model: str = Field(
        DEFAULT_MODEL,
        min_length=1,
        description="Name of a published model, path of a checkpoint, or OWNER/NAME of the Hugging Face Hub.",
    )
    labels: Path | None = Field(
        None, description="File of class names (text, JSON or CSV), or a label set; overrides those of the checkpoint."
    )
    activation: Literal["auto", "softmax", "sigmoid"] = Field(
        "auto",
        description="Output function; auto: the checkpoint's, else sigmoid for one class and softmax for several.",
    )
    ema: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Averaged weights (EMA) of a file that also has others; auto: as its library evaluates.",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps.")
    runtime: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="Library that runs the network; auto: openvino on a CPU, torch elsewhere."
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Data type of the computation; auto: float16 on NVIDIA GPUs; on a CPU bfloat16 if it is faster, "
        "and float32 again for close results; else float32.",
    )
    compile: bool = Field(False, description="Compile the network with torch.compile at start-up.")
    top_k: int = Field(5, ge=1, description="Number of classes in a response if the request does not set top_k.")
    max_batch_size: int | None = Field(
        None, ge=1, le=1024, description="Images per batch; unset: 8 on a CPU, 16 on MPS, 64 on CUDA."
    )
    max_queue_size: int = Field(
        1024, ge=1, le=100_000, description="Maximum number of images waiting or being processed; more get a 503."
    )
    max_queue_wait_s: float = Field(
        1.0,
        gt=0,
        le=3600,
        description="Maximum estimated time to complete a request, in seconds; a longer one gets a 503. Eight full"
        " batches are always accepted if they complete within half of request_timeout_s.",
    )
    max_queue_delay_ms: float = Field(
        0.0, ge=0, le=1000, description="Maximum time that an idle engine waits to fill a batch, in milliseconds."
    )
    request_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Maximum time from a request's headers to its response, in seconds; exceeding it returns a 504.",
    )
    max_upload_bytes: int = Field(
        20_000_000, ge=1, description="Maximum size of a request body, including a whole batch."
    )
    max_buffered_bytes: int = Field(
        500_000_000, ge=1, description="Maximum total size of the request bodies in memory."
    )
    max_images_per_request: int = Field(
        16, ge=1, le=1024, description="Maximum number of images in one request; max_queue_size if that is less."
    )
    workers: int = Field(
        1, ge=1, le=256, description="Worker processes; each loads the model and gets an equal share of the limits."
    )
    max_connections: int = Field(
        1000, ge=1, le=100_000, description="Maximum number of open connections; more get a 503."
    )
    keep_alive_s: int = Field(
        75, ge=1, le=3600, description="How long a connection may stay open between two requests, in seconds."
    )
    max_image_pixels: int = Field(
        50_000_000, ge=1, le=178_956_970, description="Maximum width times height of an image."
    )  # at most what Pillow itself accepts
    cpu_threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads of the network on a CPU; unset: a worker's share of the available cores.",
    )
    decode_threads: int | None = Field(
        None, ge=1, le=256, description="Threads that decode images; unset: a worker's share of the available cores."
    )
    decode_timeout_s: float = Field(
        10.0, gt=0, le=3600, description="Maximum time to decode one image, in seconds; longer gets a 422."
    )
    api_keys: Annotated[frozenset[SecretStr], NoDecode] = Field(
        frozenset(), description="API keys, separated by commas; if set, predictions and /model need one."
    )
    api_keys_file: Path | None = Field(
        None, description="File of API keys, one per line, # for comments; read again when it changes."
    )
    cors_origins: Annotated[frozenset[Origin], NoDecode] = Field(
        frozenset(),
        description="Origins of web pages that may use the service, separated by commas, such as https://shop.example"
        " (without a path); * for all.",
    )
    frame_ancestors: Annotated[frozenset[Ancestor], NoDecode] = Field(
        frozenset(),
        description="Origins of pages that may embed the web page, separated by commas, such as https://huggingface.co"
        " (without a path); self for its own origin, * for all; unset: none.",
    )
    root_path: str | None = Field(
        None, pattern="^/.*[^/]$", description="Path prefix that a proxy removes, such as /vision."
    )
    protocols: Annotated[frozenset[RequestFormat], NoDecode] = Field(
        frozenset(),
        description="Request formats of other servers, separated by commas:"
        " open_inference, kserve, sagemaker, vertex, huggingface.",
    )
    vertex_health_route: str = Field(
        "/vertex/health", pattern="^/", description="Path of Vertex AI's health checks, beginning with /."
    )
    vertex_predict_route: str = Field(
        "/vertex/predict", pattern="^/", description="Path of Vertex AI's predictions, beginning with /."
    )
    cache_dir: Path | None = Field(None, description="Folder for downloaded weights; unset: the user's cache folder.")
    shutdown_grace_s: float = Field(
        30.0, gt=0, le=3600, description="Time after SIGTERM for accepted requests to complete, in seconds."
    )
    log_format: Literal["text", "json"] = Field("text", description="Format of log lines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum log level.")
    tracing: bool = Field(False, description="Export OpenTelemetry traces, configured by OTEL_*; needs the extra otel.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 selects a free one.")

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        times = " times CONVNEXT_WORKERS" if self.workers > 1 else ""  # each worker gets an equal share
        if self.max_buffered_bytes // self.workers < self.max_upload_bytes:
            raise ValueError(f"CONVNEXT_MAX_BUFFERED_BYTES must be at least CONVNEXT_MAX_UPLOAD_BYTES{times}")
        if self.max_queue_size // self.workers < (self.max_batch_size or 1):
            raise ValueError(f"CONVNEXT_MAX_QUEUE_SIZE must be at least CONVNEXT_MAX_BATCH_SIZE{times}")
        if self.max_connections < self.workers:
            raise ValueError("CONVNEXT_MAX_CONNECTIONS must be at least CONVNEXT_WORKERS")
        return self

    def share(self, number: int, cores: int) -> Self:
        """The settings of worker ``number``, from 1: its share of ``cores`` and of the limits of the whole service."""
        own_cores = max(1, cores // self.workers + (number <= cores % self.workers))
        return self.model_copy(
            update={
                "cpu_threads": self.cpu_threads or own_cores,
                "decode_threads": self.decode_threads or own_cores,
                "max_queue_size": self.max_queue_size // self.workers,
                "max_buffered_bytes": self.max_buffered_bytes // self.workers,
                "max_connections": self.max_connections // self.workers,
            }
        )

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        if isinstance(value, str):
            keys = [key.strip() for key in value.split(",") if key.strip()]
            if value.strip() and not keys:  # a list of nothing but commas would leave the service open
                raise ValueError("there is no key between the commas")
            return keys
        return value

    @field_validator("protocols", "cors_origins", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @field_validator("frame_ancestors", mode="before")
    @classmethod
    def _split_sources(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        keywords = {"self": "'self'", "'none'": "none"}
        sources = [keywords.get(source, source) for source in value.replace(",", " ").split()]
        if "none" in sources and len(sources) > 1:
            raise ValueError("none excludes every other source")
        return [source for source in sources if source != "none"]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments take precedence over the environment, and that over the defaults of the platform."""
        platform = InitSettingsSource(settings_cls, platform_defaults(os.environ))
        return init_settings, _StrictEnvironment(settings_cls), platform
