"""What the service says in JSON."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Prediction(BaseModel):
    """One class and how probable it is."""

    label: str = Field(description="The class's name.", examples=["tabby"])
    class_id: int = Field(description="The class's index in `/model/labels`.", examples=[281])
    probability: float = Field(description="Softmax over all classes, 0 to 1.", examples=[0.83])


class PredictResponse(BaseModel):
    """The most probable classes of one image, highest first."""

    model: str = Field(description="The model that answered.", examples=["convnext_tiny"])
    predictions: list[Prediction]


class Health(BaseModel):
    """Whether the service can answer predictions, and on what it runs."""

    status: Literal["ready", "starting", "draining", "failed"]
    model: str | None = Field(description="Null while starting.", examples=["convnext_tiny"])
    device: str | None = Field(examples=["cuda:0"])
    precision: str | None = Field(examples=["bfloat16"])


class Liveness(BaseModel):
    """Whether the process is of use; where it is not, only a restart helps."""

    status: Literal["alive", "failed"]


class ModelInfo(BaseModel):
    """The network that is served, and what was chosen for it at start."""

    model_config = ConfigDict(protected_namespaces=())

    name: str = Field(examples=["convnext_tiny"])
    family: str = Field(description="Where the checkpoint's tensor names come from.", examples=["torchvision"])
    num_labels: int = Field(examples=[1000])
    input_size: int = Field(description="Side of the square input, in pixels.", examples=[224])
    parameters: int = Field(description="Count of the network's weights.", examples=[28589128])
    device: str = Field(examples=["cuda:0"])
    precision: str = Field(examples=["bfloat16"])
    mode: str = Field(description="How the network runs: openvino, eager or compiled.", examples=["openvino"])
    max_batch_size: int = Field(examples=[64])
    licence: str = Field(description="Of the weights.", examples=["BSD-3-Clause"])
    sha256: str = Field(description="Of the checkpoint file.")


class ModelLabels(BaseModel):
    """The class names; a label's place is its class_id."""

    labels: list[str]


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(description="The kind of failure.", examples=["invalid-image"])
    title: str = Field(examples=["Invalid image"])
    status: int = Field(examples=[422])
    detail: str = Field(description="What was wrong with this very request.")
