"""OpenVinoRuntime: the folded network as an OpenVINO graph, for CPUs.

The graph is built from OpenVINO's own operations rather than traced: in a tenth of a second instead of seconds.
Linear layers are 1×1 convolutions and LayerNorm normalizes over axis 1, so nothing is transposed.
"""

import math
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # otherwise importing OpenVINO sends a usage report
import openvino as ov
from openvino import Output, Type, opset13

from model.convnext import Block, ChannelNorm, ConvNeXt, GlobalResponseNorm, Head, Stage
from model.errors import EngineError
from model.images.transform import Pixels
from model.inference.fold import Normalize
from model.inference.runtime import Outputs, stacked

_TUNING_ROUNDS = 4  # whose best counts, as other processes may use the cores
_TUNING_ROUND_S = 0.1  # for each number of streams
_MAX_TUNING_S = 2.0
_NEARLY_BEST = 0.9
_THREADS_PER_STREAM = 2  # of a network that takes little time
_MARGIN = 1.2  # more threads than needed, as images differ
_HOST_SHARE = 2.0  # time of everything but the network, as a multiple of decoding
_PRECISIONS = {torch.float32: Type.f32, torch.bfloat16: Type.bf16, torch.float16: Type.f16}


class OpenVinoRuntime:
    """Computes ``network``, which takes pixels from 0 to 255, on ``threads`` threads of the CPU; see ``Runtime``.

    Each batch size is compiled for itself, on its first call: one graph for all sizes takes up to 1.8 times as long
    for a small network. The threads are divided into streams that run batches independently of each other; a single
    image on an idle engine runs on a graph over all threads. Raises ``EngineError`` if the CPU does not support
    ``dtype``.
    """

    mode = "openvino"
    batch_size_step = 4  # every compiled graph holds its own copy of the weights

    def __init__(self, network: ConvNeXt, dtype: torch.dtype, input_size: int, threads: int) -> None:
        self.concurrency = 1
        self._threads = threads
        self._busy_threads = threads  # of all streams together, unless the engine is idle
        self._core = ov.Core()
        self._graphs = [(build_graph(network, input_size), dtype)]
        if dtype != torch.float32:  # OpenVINO would also round the logits, and has no option that keeps a layer exact
            self._graphs = [(build_backbone(network, input_size), dtype), (build_head(network), torch.float32)]
        self._compiled: dict[_Layout, list[ov.CompiledModel]] = {}
        self._compiling = threading.Lock()
        self._requests = threading.local()
        self._compile(_Layout(1, 1, threads))

    def tune(self, images: Sequence[Pixels], sizes: Sequence[int], decode_s: float) -> None:
        """Chooses the number of streams with the highest throughput for batches like ``images``.

        A network that takes little time compared with decoding, ``decode_s`` per image on one core, gets fewer streams,
        which form larger batches. The second thread of each uses the cores while others wait for the interpreter lock.
        """
        rates = self._measure_streams(stacked(images, sizes[-1]))
        self.concurrency = max(rates, key=rates.__getitem__)
        needed = _threads_needed(self._threads, self._threads / rates[self.concurrency], decode_s)
        if needed < self._threads and rates[self._threads] > _NEARLY_BEST * rates[self.concurrency]:
            self.concurrency = needed
            self._busy_threads = min(self._threads, _THREADS_PER_STREAM * needed)
        with self._compiling:
            self._compiled = {layout: graph for layout, graph in self._compiled.items() if self._is_used(layout, sizes)}

    def run(self, images: Sequence[Pixels], size: int, *, idle: bool, features: bool = False) -> Outputs:
        """Computes N images ``(H, W, 3)`` uint8 as a batch of ``size``."""
        layout = _Layout(size, self.concurrency, self._busy_threads)
        if idle and size == 1:
            layout = _Layout(1, 1, self._threads)
        logits, maps = self._infer(stacked(images, size), layout, features=features)
        return Outputs(logits[: len(images)], None if maps is None else maps[: len(images)])

    def _is_used(self, layout: "_Layout", sizes: Sequence[int]) -> bool:
        busy = (layout.streams, layout.threads) == (self.concurrency, self._busy_threads)
        return (busy and layout.batch_size in sizes) or layout == _Layout(1, 1, self._threads)

    def _infer(self, images: npt.NDArray[np.uint8], layout: "_Layout", *, features: bool = False) -> Outputs:
        first, *others = self._requests_of(layout)
        results = first.infer([images], share_inputs=True, share_outputs=True)
        logits, maps = results[0], results[len(results) - 1]
        for head in others:
            logits = head.infer([maps], share_inputs=True, share_outputs=True)[0]
        # The requests reuse their memory.
        return Outputs(logits.reshape(len(images), -1).copy(), maps.copy() if features else None)

    def _requests_of(self, layout: "_Layout") -> list[ov.InferRequest]:
        """The calling thread's own requests of the compiled graphs."""
        requests: dict[_Layout, list[ov.InferRequest]] = self._requests.__dict__.setdefault("by_layout", {})
        if layout not in requests:
            requests[layout] = [compiled.create_infer_request() for compiled in self._compile(layout)]
        return requests[layout]

    def _compile(self, layout: "_Layout") -> list[ov.CompiledModel]:
        with self._compiling:
            if layout not in self._compiled:
                self._compiled[layout] = [self._compile_graph(graph, dtype, layout) for graph, dtype in self._graphs]
            return self._compiled[layout]

    def _compile_graph(self, graph: ov.Model, dtype: torch.dtype, layout: "_Layout") -> ov.CompiledModel:
        properties = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
            "INFERENCE_NUM_THREADS": layout.threads,
            "NUM_STREAMS": layout.streams,
            "ENABLE_CPU_PINNING": False,  # the decode threads use the same cores
        }
        graph.reshape([layout.batch_size, *list(graph.input().partial_shape)[1:]])
        try:
            compiled = self._core.compile_model(graph, "CPU", properties)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot compile the network for {dtype}: {error}") from error
        chosen = compiled.get_property("INFERENCE_PRECISION_HINT")
        if chosen != _PRECISIONS[dtype]:
            raise EngineError(f"this CPU does not support {dtype}: OpenVINO chose {chosen.to_string()}")
        return compiled

    def _measure_streams(self, images: npt.NDArray[np.uint8]) -> dict[int, float]:
        """Images per second by number of streams, in alternating rounds; large networks have only one."""
        rates = dict.fromkeys(_stream_counts(self._threads), 0.0)
        started_at = time.perf_counter()
        for _ in range(_TUNING_ROUNDS):
            for streams in rates:
                rates[streams] = max(rates[streams], self._measure(images, streams))
            if time.perf_counter() - started_at > _MAX_TUNING_S:
                break
        return rates

    def _measure(self, images: npt.NDArray[np.uint8], streams: int) -> float:
        """Images per second of ``streams`` threads that each run ``images`` a few times."""

        def run_once(_: int) -> None:
            self._infer(images, _Layout(len(images), streams, self._threads))

        with ThreadPoolExecutor(streams) as threads:
            list(threads.map(run_once, range(streams)))  # compiles, and fills the caches
            started_at = time.perf_counter()
            runs = 0
            while (elapsed_s := time.perf_counter() - started_at) < _TUNING_ROUND_S:
                runs += len(list(threads.map(run_once, range(2 * streams))))
        return runs * len(images) / elapsed_s


class _Layout(NamedTuple):
    """What a graph is compiled for; ``threads`` of all streams together."""

    batch_size: int
    streams: int
    threads: int


def _threads_needed(cores: int, network_s: float, decode_s: float) -> int:
    """Cores for a network that takes ``network_s`` per image on one of them; the rest of a request needs some, too."""
    return math.ceil(_MARGIN * cores * network_s / (network_s + _HOST_SHARE * decode_s))


def _stream_counts(threads: int) -> list[int]:
    """The numbers of streams to try: one, and those with four, two and one threads per stream."""
    return sorted({1, max(1, threads // 4), max(1, threads // 2), threads})


def build_graph(network: ConvNeXt, input_size: int) -> ov.Model:
    """The graph of a folded network, from ``(N, size, size, 3)`` uint8, any N.

    It has two outputs: the logits ``(N, classes, 1, 1)`` and the last feature map ``(N, K, H, W)``, which exists
    anyway: computing the logits alone is no faster.
    """
    pixels, features = _features(network, input_size)
    return ov.Model([_head(features, network.head), features], [pixels], "convnext")


def build_backbone(network: ConvNeXt, input_size: int) -> ov.Model:
    """The graph without the head: from pixels to the last feature map."""
    pixels, features = _features(network, input_size)
    return ov.Model([features], [pixels], "backbone")


def build_head(network: ConvNeXt) -> ov.Model:
    """The graph of the head, from the last feature map to the logits."""
    features = opset13.parameter([-1, network.config.widths[-1], -1, -1], Type.f32, name="features")
    return ov.Model([_head(features.output(0), network.head)], [features], "head")


def _features(network: ConvNeXt, input_size: int) -> tuple[ov.Node, Output]:
    """The parameter of the pixels, and the last feature map."""
    pixels = opset13.parameter([-1, input_size, input_size, 3], Type.u8, name="pixels")
    x = _stem(pixels, network.stem, input_size)
    for stage in network.stages:
        x = _stage(x, cast(Stage, stage))
    return pixels, x


def _head(x: Output, head: Head) -> Output:
    return _linear(_pool(_norm(x, head.norm)) if head.norm_before_pool else _norm(_pool(x), head.norm), head.fc)


def _stem(pixels: ov.Node, stem: nn.Sequential, input_size: int) -> Output:
    """The stem, of ``(N, size, size, 3)`` pixels.

    If the patches do not overlap, each row of a patch, which is contiguous in memory, becomes the channels of a
    position. OpenVINO then uses the pixels as they are, where it would otherwise reorder them twice.
    """
    patch = stem[0]
    if not isinstance(patch, nn.Conv2d) or patch.stride != patch.kernel_size or input_size % patch.kernel_size[0]:
        return _chain(opset13.transpose(opset13.convert(pixels, Type.f32), [0, 3, 1, 2]).output(0), stem)
    side = patch.kernel_size[0]
    rows = opset13.reshape(pixels, [-1, input_size, input_size // side, 3 * side], False)
    x = opset13.transpose(opset13.convert(rows, Type.f32), [0, 3, 1, 2])
    weight = patch.weight.permute(0, 3, 1, 2).reshape(-1, 3 * side, side, 1)  # (out, in row, rows, 1)
    x = opset13.convolution(x, _constant(weight), [side, 1], [0, 0], [0, 0], [1, 1])
    return _chain(opset13.add(x, _constant(patch.bias, (1, -1, 1, 1))).output(0), stem[1:])


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
            case Normalize():
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
