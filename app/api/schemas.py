"""Query parameters, response bodies and headers."""

import difflib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.serving.results import Timings


class StrictQuery(BaseModel):
    """Parameters; an unknown one is an error, as it may be a misspelled one."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, parameters: Any) -> Any:  # Any: not yet validated
        for name in parameters if isinstance(parameters, dict) else ():
            if name not in cls.model_fields:
                similar = difflib.get_close_matches(name[:40], cls.model_fields, n=1)
                hint = f"did you mean {similar[0]}?" if similar else f"the parameters are {', '.join(cls.model_fields)}"
                raise PydanticCustomError("unknown_parameter", "{text}", {"text": f"{name[:40]} is not known; {hint}"})
        return parameters


def server_timing(timings: Timings) -> dict[str, str]:
    """The Server-Timing header of a response, in milliseconds."""
    durations = {"decode": timings.decode_s, "queue": timings.queue_s, "inference": timings.inference_s}
    return {"Server-Timing": ", ".join(f"{name};dur={1000 * seconds:.3f}" for name, seconds in durations.items())}


_PROBABILITY = "Of the model's output function, softmax or sigmoid (`activation` in `/model`), 0 to 1."


class Prediction(BaseModel):
    """One class and its probability."""

    label: str = Field(description="The name of the class.", examples=["tabby"])
    class_id: int = Field(description="The index of the class in `/model/labels`.", examples=[281])
    probability: float = Field(description=_PROBABILITY, examples=[0.83])


class PredictResponse(BaseModel):
    """The most probable classes of one image, highest first."""

    model: str = Field(description="The name of the model.", examples=["convnext_tiny"])
    predictions: list[Prediction]


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="The kind of error.", examples=["invalid-image"])
    title: str = Field(examples=["Invalid image"])
    status: int = Field(examples=[422])
    detail: str = Field(description="What was wrong with this request.")


class PlainError(BaseModel):
    """An error in the formats of other servers."""

    error: str = Field(description="What was wrong with this request.")


class EmbedResponse(BaseModel):
    """The feature vector of one image."""

    model: str = Field(description="The name of the model.", examples=["convnext_tiny"])
    dimensions: int = Field(examples=[768])
    encoding: Literal["float", "base64"] = Field(examples=["float"])
    embedding: list[float] | str = Field(
        description="A list of numbers, or base64 of little-endian float32.", examples=[[0.6, -0.8], "mpkZP83MTL8="]
    )


class ExplainResponse(BaseModel):
    """How much each position of an image contributes to the logit of a class."""

    model: str = Field(description="The name of the model.", examples=["convnext_tiny"])
    class_id: int = Field(examples=[281])
    label: str = Field(examples=["tabby"])
    probability: float = Field(description=_PROBABILITY, examples=[0.83])
    logit: float = Field(description="The mean of `map` plus `bias`.", examples=[9.1])
    bias: float = Field(description="What every image gets for this class.", examples=[-0.2])
    map: list[list[float]] = Field(
        description="Rows of positions, from the top left of the cropped image.", examples=[[[0.4, 11.2], [-0.1, 25.7]]]
    )


class BatchItem(BaseModel):
    """The classes of one image, or why there are none."""

    file_name: str = Field(description="As it was sent.", examples=["photo.jpg"])
    predictions: list[Prediction] | None = Field(None, description="Absent if there is a problem.")
    problem: Problem | None = Field(None, description="Absent if there are predictions.")


class BatchResponse(BaseModel):
    """One result per image, in order."""

    model: str = Field(description="The name of the model.", examples=["convnext_tiny"])
    results: list[BatchItem]


class Health(BaseModel):
    """Whether the service accepts predictions, and what it runs on."""

    status: Literal["ready", "starting", "draining", "failing", "failed"]
    model: str | None = Field(description="Null while starting.", examples=["convnext_tiny"])
    device: str | None = Field(examples=["cuda:0"])
    precision: str | None = Field(examples=["bfloat16"])


class Liveness(BaseModel):
    """Whether the process works; if it has failed, only a restart helps."""

    status: Literal["alive", "failed"]


class ModelInfo(BaseModel):
    """The network, and what was chosen for it at start-up."""

    model_config = ConfigDict(protected_namespaces=())

    name: str = Field(examples=["convnext_tiny"])
    family: str = Field(description="The library whose tensor names the checkpoint uses.", examples=["torchvision"])
    activation: Literal["softmax", "sigmoid"] = Field(
        description="Output function: softmax (one class per image) or sigmoid (independent classes).",
        examples=["softmax"],
    )
    num_labels: int = Field(description="With one label, its probability is that of the class itself.", examples=[1000])
    input_size: int = Field(description="Side of the square input, in pixels.", examples=[224])
    parameters: int = Field(description="Number of weights.", examples=[28589128])
    device: str = Field(examples=["cuda:0"])
    precision: str = Field(examples=["bfloat16"])
    precision_reason: str = Field(
        description="Why this precision was chosen.", examples=["bfloat16 is 1.65 times as fast as float32"]
    )
    mode: str = Field(
        description="How the network runs: openvino, eager, compiled, or what speeds it up on a GPU.",
        examples=["openvino"],
    )
    max_batch_size: int = Field(examples=[64])
    licence: str = Field(description="Licence of the weights.", examples=["BSD-3-Clause"])
    sha256: str = Field(description="SHA-256 of the checkpoint file.")


class ModelLabels(BaseModel):
    """The names of the classes, in the order of class_id."""

    labels: list[str]
