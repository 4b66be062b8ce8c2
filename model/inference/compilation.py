"""torch.compile with one graph for each batch size."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_MAX_SIZES = 64  # far more than are used; torch's own limit is 8, above which it runs eagerly


def compiled_for_each_size(
    network: nn.Module,
    backend: str | Callable[..., Any] = "inductor",  # Any: as torch.compile has it
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """``network``, compiled at the first call with each batch size.

    ``fullgraph`` makes whatever cannot be compiled an error, where torch would otherwise run it eagerly.
    """
    torch._dynamo.config.recompile_limit = max(_MAX_SIZES, torch._dynamo.config.recompile_limit)  # noqa: SLF001 - as in torch.compile's documentation
    compiled: Callable[[Tensor], tuple[Tensor, Tensor]] = torch.compile(
        network, dynamic=False, fullgraph=True, backend=backend
    )
    return compiled
