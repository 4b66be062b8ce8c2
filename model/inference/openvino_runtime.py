"""OpenVinoRuntime: the folded network as an OpenVINO graph, for CPUs.

The graph is written with OpenVINO's own operations rather than traced, so that it is there in a tenth of a second.
Linear layers are 1×1 convolutions and LayerNorm normalises over axis 1, so nothing is ever transposed.
"""

import sys
from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # or importing OpenVINO reports home
import openvino as ov
from openvino import Output, Type, opset13

from model.convnext import Block, ChannelNorm, ConvNeXt, GlobalResponseNorm, Stage
from model.errors import EngineError
from model.inference.fold import Normalise

_PRECISIONS = {torch.float32: Type.f32, torch.bfloat16: Type.bf16, torch.float16: Type.f16}


class OpenVinoRuntime:
    """Computes ``network``, which takes pixels in 0…255, on ``threads`` threads of the CPU; see ``Runtime``.

    Each batch size gets a compiled graph of its own, on its first call: one for all sizes takes up to 1.8 times as
    long for a small network. Raises ``EngineError`` where the CPU does not compute in ``dtype``.
    """

    mode = "openvino"
    growth = 4  # every graph holds a copy of the weights

    def __init__(self, network: ConvNeXt, dtype: torch.dtype, input_size: int, threads: int) -> None:
        self._properties = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the decoding threads share the cores
        }
        self._dtype = dtype
        self._core = ov.Core()
        self._graph = build_graph(network, input_size)
        self._requests: dict[int, ov.InferRequest] = {}  # by batch size
        self._compile((1, input_size, input_size, 3))

    def logits(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """``(N, H, W, 3)`` uint8 pixels to ``(N, num_classes)`` logits, valid until the next call."""
        request = self._requests.get(len(images)) or self._compile(images.shape)
        results = request.infer([images], share_inputs=True, share_outputs=True)
        return torch.from_numpy(results[0]).flatten(1)

    def _compile(self, shape: tuple[int, ...]) -> ov.InferRequest:
        self._graph.reshape(list(shape))
        compiled = self._core.compile_model(self._graph, "CPU", self._properties)
        chosen = compiled.get_property("INFERENCE_PRECISION_HINT")
        if chosen != _PRECISIONS[self._dtype]:
            raise EngineError(f"this CPU does not compute in {self._dtype}: OpenVINO would take {chosen.to_string()}")
        self._requests[shape[0]] = compiled.create_infer_request()
        return self._requests[shape[0]]


def build_graph(network: ConvNeXt, input_size: int) -> ov.Model:
    """The graph of a folded network: ``(N, size, size, 3)`` uint8, any N, to logits ``(N, classes, 1, 1)``."""
    pixels = opset13.parameter([-1, input_size, input_size, 3], Type.u8, name="pixels")
    x = opset13.transpose(opset13.convert(pixels, Type.f32), [0, 3, 1, 2]).output(0)
    x = _chain(x, network.stem)
    for stage in network.stages:
        x = _stage(x, cast(Stage, stage))
    head = network.head
    x = _pool(_norm(x, head.norm)) if head.norm_before_pool else _norm(_pool(x), head.norm)
    return ov.Model([_linear(x, head.fc)], [pixels], "convnext")


def _stage(x: Output, stage: Stage) -> Output:
    if isinstance(stage.downsample, nn.Sequential):
        x = _chain(x, stage.downsample)
    for block in stage.blocks:
        x = _block(x, cast(Block, block))
    return x


def _block(x: Output, block: Block) -> Output:
    out = _linear(_norm(_conv(x, block.conv_dw), block.norm), block.mlp.fc1)
    out = opset13.gelu(out, "erf").output(0)
    if isinstance(block.mlp.grn, GlobalResponseNorm):
        out = _response_norm(out, block.mlp.grn)
    return opset13.add(x, _linear(out, block.mlp.fc2)).output(0)


def _chain(x: Output, modules: nn.Sequential) -> Output:
    for module in modules:
        match module:
            case nn.Conv2d():
                x = _conv(x, module)
            case ChannelNorm():
                x = _norm(x, module)
            case nn.GELU():
                x = opset13.gelu(x, "erf").output(0)
            case Normalise():
                x = opset13.divide(opset13.subtract(x, _constant(module.mean)), _constant(module.std)).output(0)
            case _:
                raise EngineError(f"OpenVINO has no counterpart for {module}")
    return x


def _conv(x: Output, conv: nn.Conv2d) -> Output:
    weight = _constant(conv.weight, grouped=conv.groups > 1)
    convolve = opset13.group_convolution if conv.groups > 1 else opset13.convolution
    padding = cast(Sequence[int], conv.padding)
    out = convolve(x, weight, list(conv.stride), list(padding), list(padding), [1, 1])
    return opset13.add(out, _constant(conv.bias, (1, -1, 1, 1))).output(0)


def _linear(x: Output, linear: nn.Linear) -> Output:
    """A Linear over axis 1 of ``(N, C, H, W)``, as a 1×1 convolution."""
    out = opset13.convolution(x, _constant(linear.weight, (*linear.weight.shape, 1, 1)), [1, 1], [0, 0], [0, 0], [1, 1])
    return opset13.add(out, _constant(linear.bias, (1, -1, 1, 1))).output(0)


def _norm(x: Output, norm: nn.LayerNorm) -> Output:
    """A LayerNorm over axis 1 of ``(N, C, H, W)``; its affine is folded away, save in the stem."""
    out = opset13.mvn(x, [1], True, norm.eps, "inside_sqrt")
    if norm.weight is not None:
        out = opset13.multiply(out, _constant(norm.weight, (1, -1, 1, 1)))
        out = opset13.add(out, _constant(norm.bias, (1, -1, 1, 1)))
    return out.output(0)


def _response_norm(x: Output, grn: GlobalResponseNorm) -> Output:
    response = opset13.reduce_l2(x, [2, 3], True)  # (N, C, 1, 1)
    share = opset13.divide(response, opset13.add(opset13.reduce_mean(response, [1], True), np.float32(1e-6)))
    scaled = opset13.multiply(opset13.multiply(x, share), _constant(grn.weight, (1, -1, 1, 1)))
    return opset13.add(x, opset13.add(scaled, _constant(grn.bias, (1, -1, 1, 1)))).output(0)


def _pool(x: Output) -> Output:
    return opset13.reduce_mean(x, [2, 3], True).output(0)  # (N, C, 1, 1)


def _constant(tensor: torch.Tensor | None, shape: Sequence[int] | None = None, *, grouped: bool = False) -> Output:
    array = cast(torch.Tensor, tensor).numpy()
    if grouped:  # (groups, out / groups, in / groups, kernel, kernel)
        array = array[:, None]
    array = np.ascontiguousarray(array if shape is None else array.reshape(shape), np.float32)
    return opset13.constant(array, shared_memory=True).output(0)  # the graph holds the array, not a copy
