"""Data-parallel training that does not depend on the number of processes.

A batch is cut into `[train] shards` parts. Each part gives a vector: gradients, BatchNorm's running statistics (each part has
batch statistics of its own: ghost batches, Hoffer et al., NeurIPS 2017) and losses. The processes that torchrun started share
the parts out; all vectors are gathered and averaged in the order of the parts, so that one process and several compute the
same bits. (An all-reduce would add in an order that depends on their number.)
"""
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from model.config import ConfigError


@dataclass(frozen=True, slots=True)
class World:
    """This process's place among those of torchrun: `rank` of `size`."""

    rank: int
    size: int

    @classmethod
    def now(cls) -> "World":
        """The place that torch.distributed knows; the only process where it is not initialised."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls(0, 1)

    def mine(self, shards: int) -> range:
        """This process's parts of `shards`; ConfigError where they cannot be shared out evenly."""
        if shards % self.size:
            raise ConfigError(f"[train] shards = {shards} cannot be shared by {self.size} processes: "
                              f"set it to a multiple of {self.size}")
        each = shards // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def mean(self, vectors: list[Tensor]) -> Tensor:
        """Mean [n] of all parts' vectors [n], of which `vectors` are this process's, added in the order of the parts."""
        if self.size > 1:
            mine = torch.stack(vectors)
            found = [torch.empty_like(mine) for _ in range(self.size)]
            dist.all_gather(found, mine)
            vectors = list(torch.cat(found))
        total = vectors[0].clone()
        for vector in vectors[1:]:
            total += vector
        return total / len(vectors)


class Parts:
    """Gradients and buffers of `model` as one vector for each part of a batch."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = list(model.parameters())
        self.buffers = list(model.buffers())
        self.start: list[Tensor] = []
        self.vectors: list[Tensor] = []

    def begin(self) -> None:
        """A new batch: every part is to start from the buffers as they are now."""
        self.start, self.vectors = [buffer.clone() for buffer in self.buffers], []

    def add(self, values: Tensor) -> None:
        """Take up a part's gradients, float buffers and `values` [m]; then forget the gradients."""
        floats = [buffer for buffer in self.buffers if buffer.is_floating_point()]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.vectors.append(torch.cat([tensor.detach().flatten().float() for tensor in (*gradients, *floats, values)]))
        for parameter in self.parameters:
            parameter.grad = None

    def restore(self) -> None:
        """Buffers as they were at `begin`."""
        for buffer, before in zip(self.buffers, self.start, strict=True):
            buffer.copy_(before)

    def finish(self, world: World) -> Tensor:
        """Set gradients and float buffers to the mean of all parts of all processes; returns the mean of the values [m]."""
        mean = world.mean(self.vectors)
        at = 0
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.grad = mean[at:at + parameter.numel()].view(parameter.shape).to(parameter.dtype)
                at += parameter.numel()
            for buffer in self.buffers:
                if buffer.is_floating_point():
                    buffer.copy_(mean[at:at + buffer.numel()].view(buffer.shape))
                    at += buffer.numel()
        return mean[at:]
