"""Settings: read once from CONVNEXT_* variables or the command line, validated, frozen."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from model.checkpoints.registry import DEFAULT_MODEL

PREFIX = "CONVNEXT_"


class _StrictEnvironment(EnvSettingsSource):
    """The environment, unknown CONVNEXT_ names included, so that a misspelt one is refused and not ignored."""

    def __call__(self) -> dict[str, Any]:  # Any: as the base class has it
        known = {f"{PREFIX}{name}".lower() for name in self.settings_cls.model_fields}
        unknown = [name for name in self.env_vars if name.lower().startswith(PREFIX.lower()) and name not in known]
        return super().__call__() | {name.upper(): self.env_vars[name] for name in unknown}


class Settings(BaseSettings):
    """Everything that can be set; each field is the variable CONVNEXT_NAME and the option --name."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", protected_namespaces=()
    )

    model: str = Field(DEFAULT_MODEL, min_length=1, description="Registry name, or path of a checkpoint.")
    labels: Path | None = Field(None, description="File of class names, text or JSON; overrides the checkpoint's.")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps.")
    runtime: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="What computes the network; auto: openvino on a CPU, torch elsewhere."
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Arithmetic of the network."
    )
    compile: bool = Field(False, description="Compile the network with torch.compile at start.")
    top_k: int = Field(5, ge=1, description="Classes in an answer where the request names no top_k.")
    max_batch_size: int | None = Field(
        None, ge=1, le=1024, description="Images in a batch; unset: 8 on a CPU, 64 on CUDA."
    )
    max_queue_size: int = Field(256, ge=1, description="Requests admitted and not yet in a batch; more get a 503.")
    max_queue_delay_ms: float = Field(
        0.0, ge=0, le=1000, description="How long an idle engine waits for a fuller batch."
    )
    request_timeout_s: float = Field(30.0, gt=0, description="From a request's head to its answer; later gets a 504.")
    max_upload_bytes: int = Field(20_000_000, ge=1, description="Largest request body.")
    max_buffered_bytes: int = Field(1_000_000_000, ge=1, description="All request bodies in memory together.")
    max_image_pixels: int = Field(
        50_000_000, ge=1, le=178_956_970, description="Width times height of an image, from its header."
    )  # at most what Pillow itself takes
    cpu_threads: int | None = Field(
        None, ge=1, le=1024, description="Threads of the network on a CPU; unset: one a core."
    )
    decode_threads: int | None = Field(None, ge=1, le=256, description="Threads that decode; unset: one a core.")
    api_keys: Annotated[frozenset[SecretStr], NoDecode] = Field(
        frozenset(), description="Keys, split by commas, one of which /predict and /model then ask for."
    )
    cache_dir: Path | None = Field(None, description="Where fetched weights are kept; unset: the user's cache folder.")
    shutdown_grace_s: float = Field(30.0, gt=0, description="After SIGTERM, time for what was accepted to be answered.")
    log_format: Literal["text", "json"] = Field("text", description="Log lines for people or for machines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        if isinstance(value, str):
            return [key.strip() for key in value.split(",") if key.strip()]
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What was given by hand comes before the environment; there are no other sources."""
        return init_settings, _StrictEnvironment(settings_cls)
