"""Team: processes that share out each batch and average their gradients.

On a CPU whose cores other programs use as well, processes of one thread each get far more done than one process of
several threads, which wait for each other after every operation: these meet once a step.
"""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, nn

PATIENCE = timedelta(hours=12)  # a member may be stopped for a while


@dataclass(frozen=True)
class Team:
    """Member ``rank`` of ``size``; by default the only one."""

    rank: int = 0
    size: int = 1

    def average_gradients(self, network: nn.Module) -> None:
        """Replaces each member's gradients by their mean."""
        if self.size == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.size
        means = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))


def join(rank: int, size: int, meeting_point: Path) -> Team:
    """Waits for the other members at ``meeting_point``, a file that must not exist before."""
    if size > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{meeting_point.resolve()}", rank=rank, world_size=size, timeout=PATIENCE
        )
    return Team(rank, size)
