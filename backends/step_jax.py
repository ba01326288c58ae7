"""An optax transformation that updates arrays. See `zoo.backends.stepping.Stepper`.

Optax keeps no settings. They are read from the variables that its functions enclose: `scale_by_adam`'s update
function has `b1`, `b2` and `eps`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from zoo.backends.stepping import Array, plain

Transform = tuple[str, dict[str, Any]]


class OptaxStepper:
    """A transformation with its state, over the weights as nested dicts: "a/b" is in "a"."""

    def __init__(self, transformation: Any, weights: Mapping[str, Array]):
        jax.config.update("jax_enable_x64", True)
        self.transformation = transformation
        self.prefix = "params/" if weights and all(n.startswith("params/") for n in weights) else ""
        self.weights = {name: np.array(x, np.float64) for name, x in weights.items()}
        # Of a count in int32 a schedule computes its rate in float32, whatever the weights' type is.
        self.state = jax.tree.map(_wide, transformation.init(self.tree(self.weights)))
        self.count = 0
        self.update = jax.jit(self.transformation.update)
        names = [name for name, _ in self.transforms(next(iter(weights)))]
        self.kind = f"optax {', '.join(names)}"

    def tree(self, named: Mapping[str, Array]) -> dict[str, Any]:
        """Arrays in nested dicts, on JAX."""
        tree: dict[str, Any] = {}
        for name, x in named.items():
            *path, last = name.removeprefix(self.prefix).split("/")
            node = tree
            for part in path:
                node = node.setdefault(part, {})
            node[last] = jax.numpy.asarray(x, np.float64)
        return tree

    def transforms(self, name: str) -> list[Transform]:
        """The transformations that are applied to a weight in turn, each with what it encloses."""
        path = name.removeprefix(self.prefix).split("/")
        return list(_transforms(self.transformation, self.tree(self.weights), path))

    def settings(self, name: str) -> dict[str, Any]:
        return {
            "chain": [
                [kind, {key: plain(v) for key, v in enclosed.items() if not callable(v)}]
                for kind, enclosed in self.transforms(name)
            ]
        }

    def rate(self) -> float | None:
        rate = None
        for kind, enclosed in self.transforms(next(iter(self.weights))):
            if kind == "scale":
                rate = (1.0 if rate is None else rate) * abs(float(enclosed["step_size"]))
            elif kind == "scale_by_schedule":
                rate = (1.0 if rate is None else rate) * abs(
                    float(enclosed["step_size_fn"](np.int64(self.count)))
                )
        injected = getattr(self.state, "hyperparams", {}).get("learning_rate")
        return float(injected) if injected is not None else rate

    def step(self, gradients: Mapping[str, Array]) -> dict[str, Array]:
        given = {name: gradients.get(name, np.zeros_like(x)) for name, x in self.weights.items()}
        tree = self.tree(self.weights)
        updates, self.state = self.update(self.tree(given), self.state, tree)
        new = optax.apply_updates(tree, updates)
        self.count += 1
        for name in self.weights:
            node: Any = new
            for part in name.removeprefix(self.prefix).split("/"):
                node = node[part]
            self.weights[name] = np.array(node)
        return dict(self.weights)


def _transforms(transformation: Any, params: Any, path: list[str]) -> Iterator[Transform]:
    """The named transformations within one, for the weight at a path."""
    update, enclosed = transformation.update, _enclosed(transformation.update)
    kind = update.__qualname__.partition(".")[0]
    if kind == "with_extra_args_support":
        yield from _transforms(enclosed["tx"], params, path)
    elif kind == "chain":
        inits = _enclosed(transformation.init).get("init_fns") or [None] * len(enclosed["update_fns"])
        for init, each in zip(inits, enclosed["update_fns"], strict=True):
            yield from _transforms(_Pair(init, each), params, path)
    elif kind == "masked":
        if _at(_called(enclosed["mask"], params), path):
            yield from _transforms(enclosed["inner"], params, path)
    elif kind in ("partition", "multi_transform"):
        label = _at(_called(enclosed["param_labels"], params), path)
        yield from _transforms(enclosed["transforms"][label], params, path)
    elif kind != "init_empty_state" and kind != "identity":
        radam = enclosed.get("_radam_update")
        own = {**_enclosed(transformation.init), **enclosed, **(_enclosed(radam) if radam else {})}
        yield kind, own


def _wide(x: Any) -> Any:
    return x.astype(np.int64) if getattr(x, "dtype", None) == np.int32 else x


class _Pair:
    def __init__(self, init: Any, update: Any):
        self.init, self.update = init, update


def _enclosed(function: Callable[..., Any] | None) -> dict[str, Any]:
    code = getattr(function, "__code__", None)
    cells = zip(code.co_freevars, getattr(function, "__closure__", None) or (), strict=False) if code else ()
    found = {}
    for name, cell in cells:
        try:
            found[name] = cell.cell_contents
        except ValueError:  # a function that refers to itself
            continue
    return found


def _called(tree: Any, params: Any) -> Any:
    return tree(params) if callable(tree) else tree


def _at(tree: Any, path: list[str]) -> Any:
    """The value at a path of a tree that may be a prefix of the parameters'."""
    for part in path:
        if not isinstance(tree, Mapping):
            break
        tree = tree.get(part)
    return tree
