"""The few collective operations that pretraining needs, in one process or in several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from tasks.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, device

PATIENCE = timedelta(minutes=5)
"""How long a rank waits for the others before it gives up."""


@dataclass(frozen=True)
class Ranks:
    """This process among ``world`` equals."""

    rank: int
    world: int
    device: device

    def add(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over the ranks, in place."""
        import torch.distributed

        if self.world > 1:
            torch.distributed.all_reduce(tensor)

    def count(self, value: int) -> int:
        """The sum of ``value`` over the ranks."""
        return int(self.total(value))

    def total(self, value: float) -> float:
        """The sum of ``value`` over the ranks; exact for whole numbers."""
        import torch

        total = torch.tensor([value], dtype=torch.float64)
        self.add(total)
        return float(total)

    def gather(self, values: np.ndarray) -> np.ndarray:
        """All ranks' ``values`` (N,) int64, N being the same in each: (world * N,), rank by rank."""
        import torch

        if self.world == 1:
            return values
        parts = [torch.empty(len(values), dtype=torch.int64) for _ in range(self.world)]
        torch.distributed.all_gather(parts, torch.from_numpy(values))
        return torch.cat(parts).numpy()


@contextmanager
def joined(rank: int, world: int, rendezvous: str | None) -> Iterator[Ranks]:
    """Join the group at ``rendezvous`` (only where ``world`` > 1) and leave it again.

    Several ranks compute on the CPU with one thread each; a single one takes the GPU where there is one.
    """
    import torch

    if world == 1:
        yield Ranks(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        return
    if rendezvous is None:
        raise InputError(f"rendezvous: {world} processes need a common file:// URL")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this machine
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world, timeout=PATIENCE)
    try:
        yield Ranks(rank, world, torch.device("cpu"))
        torch.distributed.barrier()  # leave together: gloo aborts a rank whose peer is gone while it still talks
    finally:
        torch.distributed.destroy_process_group()
        torch.set_num_threads(threads)
