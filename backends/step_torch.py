"""A torch.optim optimizer that updates arrays. See `zoo.backends.stepping.Stepper`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from zoo.backends.stepping import Array, plain

from zoo.errors import WrongConfiguration

PRIVATE = {"params", "param_names", "foreach", "fused", "capturable", "differentiable", "initial_lr", "lr"}


def build(factory: Callable[[Any], Any], weights: Mapping[str, Array]) -> Any:
    """What a function of named parameters returns; an optimizer with its parameters and scheduler."""
    named = {name: torch.nn.Parameter(torch.from_numpy(np.array(x))) for name, x in weights.items()}
    made = factory(list(named.items()))
    optimizer, scheduler = made if isinstance(made, tuple) else (made, None)
    if isinstance(optimizer, torch.optim.Optimizer):
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not known & {id(p) for p in named.values()}:
            raise WrongConfiguration("the optimizer has none of the parameters that its function was given")
        optimizer.zoo_names, optimizer.zoo_scheduler = named, scheduler  # type: ignore[attr-defined]
    return optimizer


class TorchStepper:
    """An optimizer, with its scheduler's step after each of its own."""

    def __init__(self, optimizer: Any):
        named = getattr(optimizer, "zoo_names", None)
        if named is None:
            raise WrongConfiguration(
                "the optimizer was built before its parameters; expected a function of "
                "module.named_parameters() that returns it"
            )
        self.optimizer, self.scheduler = optimizer, optimizer.zoo_scheduler
        self.named: dict[str, torch.nn.Parameter] = named
        self.kind = _known(type(optimizer))

    def group(self, name: str) -> dict[str, Any]:
        """The parameter group of a weight; of one that is not trained, an empty one."""
        wanted = self.named[name]
        return next((g for g in self.optimizer.param_groups if any(p is wanted for p in g["params"])), {})

    def settings(self, name: str) -> dict[str, Any]:
        group = self.group(name)
        if not group:
            return {"trained": False}
        first = self.optimizer.param_groups[0]["lr"]
        return {
            **{key: plain(value) for key, value in group.items() if key not in PRIVATE},
            "rate_multiplier": float(group["lr"]) / float(first) if first else 1.0,
        }

    def rate(self) -> float | None:
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, gradients: Mapping[str, Array]) -> dict[str, Array]:
        for name, parameter in self.named.items():
            gradient = gradients.get(name)
            parameter.grad = None if gradient is None else torch.from_numpy(np.array(gradient))
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        return {name: p.detach().numpy().copy() for name, p in self.named.items()}


def _known(kind: type) -> str:
    """The name of a class of torch.optim that this one is or derives from."""
    bases = [base.__name__ for base in kind.__mro__ if base.__module__.startswith("torch.optim")]
    name = next((n for n in bases if n != "Optimizer"), "")
    own = kind.__module__.startswith("torch.optim")
    return f"torch.optim.{name}" if own else f"{kind.__name__}({f'torch.optim.{name}' if name else ''})"
