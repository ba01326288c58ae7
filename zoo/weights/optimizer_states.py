"""Optimizer states of SGD, Adam and AdamW between torch.optim, optax and Keras.

    state = OptimizerState.from_torch(torch_optimizer.state_dict(), names)
    state = state.convert(WeightsMapping.load("mapping.json"))       # if names and layouts differ
    opt_state = state.to_optax(optimizer.init(params))

Keras's SGD keeps the velocity times the learning rate: it goes on as torch's does at a constant rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from zoo._lazy import ops
from zoo.errors import WeightsMismatch, WrongConfiguration, shortlist
from zoo.weights.mappings import WeightsMapping

Array = np.ndarray
TORCH = {
    "momentum_buffer": "velocity", "exp_avg": "first_moment", "exp_avg_sq": "second_moment",
    "max_exp_avg_sq": "highest_second_moment",
}  # fmt: skip
OPTAX = {
    "trace": "velocity", "mu": "first_moment", "nu": "second_moment", "nu_max": "highest_second_moment",
}  # fmt: skip
KERAS = {
    "momentums": "velocity", "_momentums": "first_moment", "_velocities": "second_moment",
    "_velocity_hats": "highest_second_moment",
}  # fmt: skip
ZOO = {"momentum": "first_moment", "velocity": "second_moment", "largest": "highest_second_moment"}


@dataclass(frozen=True)
class OptimizerState:
    """An optimizer's state: the number of `steps`, and for each kind of array those of the weights by name.

    The kinds are "velocity" of momentum, and "first_moment", "second_moment" and "highest_second_moment" of
    Adam and AdamW.
    """

    steps: int
    slots: dict[str, dict[str, Array]]

    def convert(self, mapping: WeightsMapping, *, reverse: bool = False) -> OptimizerState:
        """The state for the other implementation's weights; what theirs lacks starts at 0."""
        return OptimizerState(
            self.steps,
            {
                kind: mapping.partial(arrays, reverse=reverse, constants=False)
                for kind, arrays in self.slots.items()
            },
        )

    # torch

    @classmethod
    def from_torch(cls, state_dict: Mapping[str, Any], names: Sequence[str] | None = None) -> OptimizerState:
        """Of a torch optimizer's `state_dict()`.

        `names` are those of the parameters in the order in which it was given them; they are known if it was
        given `module.named_parameters()`. Raises WrongConfiguration for other optimizers.
        """
        slots: dict[str, dict[str, Array]] = {}
        steps = 0
        for number, name in _torch_names(state_dict, names).items():
            for key, value in state_dict["state"].get(number, {}).items():
                if key == "step":
                    steps = int(value)
                elif key in TORCH:
                    if value is not None:
                        slots.setdefault(TORCH[key], {})[name] = np.array(value.detach().cpu().numpy())
                else:
                    raise WrongConfiguration(f"state {key!r} of {name}; expected that of SGD, Adam or AdamW")
        return cls(steps, slots)

    def to_torch(self, template: Mapping[str, Any], names: Sequence[str] | None = None) -> dict[str, Any]:
        """A state dict for `load_state_dict`; `template` is that of the new torch optimizer."""
        tensor = import_module("zoo.backends.torch_tensors").tensor
        kinds = {kind: key for key, kind in TORCH.items()}
        numbers = _torch_names(template, names)
        _check("torch's optimizer", numbers.values(), self.slots)
        state: dict[int, dict[str, Any]] = {}
        for number, name in numbers.items():
            own = {kinds[kind]: tensor(arrays[name]) for kind, arrays in self.slots.items() if name in arrays}
            if own and "momentum_buffer" not in own:
                own["step"] = tensor(np.asarray(self.steps, np.float32))
            if own:
                state[number] = own
        return {"state": state, "param_groups": template["param_groups"]}

    # optax

    @classmethod
    def from_optax(cls, state: Any) -> OptimizerState:
        """Of optax's state of `sgd`, `adam` or `adamw`; a weight's name is its path, "a/b"."""
        slots: dict[str, dict[str, Array]] = {}
        steps = 0
        for node in _nodes(state):
            steps = max(steps, int(getattr(node, "count", 0)) if "count" in node._fields else 0)
            for key in OPTAX.keys() & set(node._fields):
                leaves = {name: np.array(x) for name, x in _leaves(getattr(node, key))}
                slots.setdefault(OPTAX[key], {}).update(leaves)
        return cls(steps, slots)

    def to_optax(self, template: Any) -> Any:
        """The state with these arrays; `template` is `optimizer.init(params)`."""
        wanted = {name for node in _nodes(template) for k in OPTAX.keys() & set(node._fields)
                  for name, _ in _leaves(getattr(node, k))}  # fmt: skip
        _check("optax's state", wanted, self.slots)

        def fill(node: Any) -> Any:
            own = {}
            for key in node._fields:
                value = getattr(node, key)
                if key == "count":
                    own[key] = np.asarray(self.steps, np.int32)
                elif key in OPTAX:
                    own[key] = _filled(value, self.slots[OPTAX[key]])
            return own

        return _rebuilt(template, fill)

    # Keras

    @classmethod
    def from_keras(cls, optimizer: Any) -> OptimizerState:
        """Of a built SGD, Adam or AdamW of Keras or `zoo.optimizers`; names are the weights' paths."""
        slots = {
            kind: {v.path: _numpy(x) * factor for v, x in pairs}
            for kind, pairs, factor in _keras_slots(optimizer)
        }
        return cls(int(_numpy(optimizer.iterations)), slots)

    def to_keras(self, optimizer: Any) -> None:
        """Assign this state to a built optimizer."""
        _check("Keras's optimizer", (v.path for v in optimizer._trainable_variables), self.slots)
        found = _keras_slots(optimizer)
        if lacking := {kind for kind, _, _ in found} - self.slots.keys():
            raise WeightsMismatch(f"the state has no {', '.join(sorted(lacking))}; {optimizer.name} needs it")
        for kind, pairs, factor in found:
            for variable, x in pairs:
                x.assign(self.slots[kind][variable.path] / factor)
        optimizer.iterations.assign(self.steps)


def _torch_names(state_dict: Mapping[str, Any], names: Sequence[str] | None) -> dict[int, str]:
    """The names of a state dict's parameters by their numbers."""
    groups = state_dict["param_groups"]
    numbers = [number for group in groups for number in group["params"]]
    own = [name for group in groups for name in group.get("param_names", ())]
    given = list(names or own)
    if len(given) != len(numbers):
        raise WrongConfiguration(f"{len(given)} names of {len(numbers)} parameters; expected one for each")
    return dict(zip(numbers, given, strict=True))


def _check(who: str, names: Any, slots: Mapping[str, Mapping[str, Array]]) -> None:
    """Raise WeightsMismatch unless each kind has an array for every weight, and no other."""
    needed = set(names)
    for kind, arrays in slots.items():
        for words, gap in (("lacks", needed - arrays.keys()), ("has besides", arrays.keys() - needed)):
            if gap:
                raise WeightsMismatch(
                    f"{kind} {words} {shortlist(sorted(gap))}, for {who}. Nothing was changed."
                )


def _is_node(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _nodes(state: Any) -> Iterator[Any]:
    """The named tuples of an optax state, whatever they are chained in."""
    if _is_node(state):
        yield state
    if isinstance(state, tuple | list):
        for each in state:
            yield from _nodes(each)
    elif isinstance(state, Mapping):
        for each in state.values():
            yield from _nodes(each)


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, each in tree.items():
            yield from _leaves(each, f"{path}/{key}" if path else str(key))
    elif hasattr(tree, "shape"):
        yield path, tree


def _filled(tree: Any, arrays: Mapping[str, Array], path: str = "") -> Any:
    kind: Any = type(tree)
    if isinstance(tree, Mapping):
        return kind({k: _filled(x, arrays, f"{path}/{k}" if path else str(k)) for k, x in tree.items()})
    return np.asarray(arrays[path], tree.dtype) if hasattr(tree, "shape") else tree


def _rebuilt(state: Any, fill: Callable[[Any], Mapping[str, Any]]) -> Any:
    kind: Any = type(state)
    if _is_node(state):
        own = fill(state)
        return kind(*(own.get(k, _rebuilt(getattr(state, k), fill)) for k in state._fields))
    if isinstance(state, tuple | list):
        return kind(_rebuilt(each, fill) for each in state)
    if isinstance(state, Mapping):
        return kind({k: _rebuilt(each, fill) for k, each in state.items()})
    return state


def _keras_slots(optimizer: Any) -> list[tuple[str, list[tuple[Any, Any]], float]]:
    """(kind, (weight, array) of each, the factor by which an array is torch's) of a built optimizer."""
    variables = optimizer._trainable_variables
    if not optimizer.built:
        raise WrongConfiguration(f"{optimizer.name} is not built; call its build with the model's weights")
    if hasattr(optimizer, "slots"):  # zoo.optimizers
        kinds = ZOO if "velocity" in optimizer.slots else {"momentum": "velocity"}
        return [
            (kinds[kind], list(zip(variables, xs, strict=True)), 1.0) for kind, xs in optimizer.slots.items()
        ]
    found = []
    for name, kind in KERAS.items():
        if xs := getattr(optimizer, name, None):
            factor = -1.0 / float(_numpy(optimizer.learning_rate)) if name == "momentums" else 1.0
            found.append((kind, list(zip(variables, xs, strict=True)), factor))
    if not found and getattr(optimizer, "momentum", None) != 0:
        raise WrongConfiguration(f"{type(optimizer).__name__}; expected Keras's SGD, Adam or AdamW")
    return found


def _numpy(value: Any) -> Array:
    return np.array(ops.convert_to_numpy(value))
