"""Workers on torch: a c10d process group, gloo on CPUs and NCCL on CUDA devices."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
from zoo.backends.world import Launch, World

from zoo.errors import WorkerLost


class TorchWorld(World):
    """A process group; the sums of a step are one all-reduce."""

    def __init__(self, launch: Launch, device: torch.device, timeout: float):
        super().__init__()
        self.rank, self.size, self.device = launch.rank, launch.size, device
        with self.contact():
            limit, first = timedelta(seconds=timeout), launch.rank == 0 and not launch.elastic
            store = dist.TCPStore(launch.address, launch.port, launch.size, first, limit)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                # torchrun's store has the addresses of the workers before a restart.
                store=dist.PrefixStore(f"restart {launch.restarts}", store),
                rank=launch.rank,
                world_size=launch.size,
                timeout=limit,
            )
        atexit.register(self.close)

    def total(self, array: np.ndarray) -> np.ndarray:
        tensor = torch.tensor(np.asarray(array, np.float64), device="cpu")
        dist.all_reduce(tensor)
        return tensor.numpy()

    @torch.no_grad()
    def sums(
        self, loss: torch.Tensor, gradients: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The loss and the gradients, each stored like its weight, summed over the workers."""
        flag = torch.as_tensor(float(self.flag), dtype=loss.dtype, device=loss.device)
        parts = [torch.stack([loss.detach(), flag]), *gradients]
        likes = [parts[0], *(weight.detach() for weight in weights)]
        found: list[torch.Tensor] = [*parts]
        for dtype in {part.dtype: None for part in parts}:  # in the same order on all workers
            own = [i for i, part in enumerate(parts) if part.dtype == dtype]
            buffer = torch.empty(sum(parts[i].numel() for i in own), dtype=dtype, device=loss.device)
            start = 0
            for i in own:
                like = likes[i]
                found[i] = buffer.as_strided(like.shape, like.stride(), start).copy_(parts[i])
                start += like.numel()
            dist.all_reduce(buffer)
        self.flags.append(found[0][1])
        return found[0][0], found[1:]

    def reduce(self, x: torch.Tensor, by: str) -> torch.Tensor:
        return _reduced(x, by)

    @contextmanager
    def contact(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or "gloo" in str(error):
                atexit.unregister(self.close)  # it could wait for the one that is lost
                raise WorkerLost.of(error) from None
            raise

    def close(self) -> None:
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over the workers. A loss is summed over them as well, and so is the gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        del ctx
        return _sum(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> torch.Tensor:
        del ctx
        return _sum(gradients[0])


def _sum(x: torch.Tensor) -> torch.Tensor:
    return _reduced(x, "sum")


def _reduced(x: torch.Tensor, by: str) -> torch.Tensor:
    # Not `dist.all_reduce`: `make_fx` records these as operations of the graph.
    return collectives.wait_tensor(collectives.all_reduce(x.contiguous(), by, cast(Any, dist.group.WORLD)))


def batch_norm(
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    *,
    momentum: float,
    epsilon: float,
    of: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`zoo.backends.torch.batch_norm` in training, of a batch in so many equal parts."""
    axes, count = list(range(x.ndim - 1)), of * x.numel() // x.shape[-1]
    total: Callable[..., Any] = _Sum.apply
    batch_mean = total(x.sum(axes)) / count
    centred = x - batch_mean
    batch_variance = total(centred.square().sum(axes)) / count
    y = centred * (torch.rsqrt(batch_variance + epsilon) * gamma) + beta
    mean = (1 - momentum) * mean + momentum * batch_mean.detach()
    unbiased = batch_variance.detach() * (count / max(count - 1, 1))
    return y, mean, (1 - momentum) * variance + momentum * unbiased
