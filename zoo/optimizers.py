"""Optimizers with torch.optim's semantics, for `compile` and for the native engine.

Keras's own differ: SGD folds the learning rate into its velocity, which changes what schedules do; Adam's
epsilon is added elsewhere and is 1e-7; LAMB omits weight decay in its trust ratio. Here, with gradient g,
weight w, rate a, decay d, and step t counted from 1:

    SGD, Momentum, Adam    g <- g + d w
    SGD                    w <- w - a g
    Momentum               v <- mu v + g                    w <- w - a v   (Nesterov: w - a (g + mu v))
    moments                m <- b1 m + (1 - b1) g           v <- b2 v + (1 - b2) g^2
    direction              r = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + e)   (AMSGrad: the largest v so far)
    Adam                   w <- w - a r
    AdamW                  w <- (1 - a d) w - a r
    LAMB                   w <- w - a |w| / |r + d w| (r + d w)

Arguments have Keras's names and torch's defaults. One object configures the optimizer for both engines;
`zoo.backends` builds the native optimizer: torch.optim's, optax's, TensorFlow's own update kernels.

Every optimizer also takes these arguments, applied in this order and in the same way in both engines:

- `loss_scale_factor`: the loss is multiplied by it before the gradients are computed, and they are divided by
  it. Under the policy "mixed_float16" the loss is scaled dynamically instead, as in Keras and torch.
- `gradient_accumulation_steps`: one update for this many batches, with the mean of their gradients weighted
  by the number of labels other than -1, or examples, in each: as for one large batch. In your own `fit`
  batches have equal weights. Schedules, bias correction and averages count updates (in Keras a schedule
  counts batches).
- `clipvalue`, `clipnorm`, `global_clipnorm`: clip each value, each gradient's norm, or the norm of all.
- `groups`: settings for some of the variables, see `Optimizer`.
- `use_ema`, `ema_momentum`, `ema_overwrite_frequency`: an average of the weights, w' <- m w' + (1 - m) w,
  that replaces them when training ends and, if a frequency is given, every so many updates.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from math import inf, log
from typing import Any

import numpy as np

from zoo import backends
from zoo._lazy import keras, ops
from zoo.checks import integer
from zoo.errors import WrongConfiguration, nearest

Tensor = Any


class Optimizer(keras.optimizers.Optimizer):
    """The base class of the optimizers: checked settings, from which the native optimizer is built as well.

    `groups` maps regular expressions to settings of the variables in whose path they are found; the first
    match counts: {"bias|gamma|beta": {"weight_decay": 0.0}, "^head/": {"learning_rate_multiplier": 10}}. With
    a multiplier AdamW's decay is that of the variable's own rate, as of a parameter group in torch. "start"
    is the update from which they are trained (0 by default), and bias correction counts.
    """

    SLOTS: tuple[str, ...] = ()  # the kinds of state kept for each variable
    batch_weight: Any = None  # of the current batch: an integer or a tensor, None for equal weights
    first = 0  # the update from which the variable that is being updated is trained
    CYCLED: str | None = None  # the setting that OneCycle's momentum replaces

    def __init__(
        self,
        learning_rate: Any,
        *,
        weight_decay: float = 0.0,
        groups: Mapping[str, Mapping[str, float]] | None = None,
        **kwargs: Any,
    ):
        who = type(self).__name__
        scheduled = isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule)
        if not scheduled:
            at_least_zero(who, learning_rate=learning_rate)
            learning_rate = float(learning_rate)
        at_least_zero(who, weight_decay=weight_decay)
        _check_common(who, kwargs)
        checked = _checked_groups(who, groups)
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self.rate: Any = learning_rate
        self.scheduled, self._groups, self._decay = scheduled, checked, weight_decay

    # Read by both engines

    def rate_at(self, step: int) -> float:
        """The learning rate of an update, counted from 0."""
        if not self.scheduled:
            return float(self.rate)
        return self.rate.at(step) if hasattr(self.rate, "at") else float(self.rate(step))

    @property
    def cycles(self) -> bool:
        """Whether the momentum (Adam's beta_1) follows the schedule, as OneCycle's does."""
        return self.CYCLED is not None and getattr(self.rate, "cycle_momentum", False)

    def momentum_at(self, step: int) -> float:
        """The momentum (Adam's beta_1) of an update, counted from 0."""
        assert self.CYCLED is not None
        return self.rate.momentum_at(step) if self.cycles else getattr(self, self.CYCLED)

    def group(self, variable: keras.Variable) -> tuple[float, float]:
        """(learning rate multiplier, weight decay) of this variable."""
        chosen = self._settings(variable.path)
        decay = chosen.get("weight_decay", self._decay) if self._use_weight_decay(variable) else 0.0
        return chosen.get("learning_rate_multiplier", 1.0), decay

    def start(self, variable: keras.Variable) -> int:
        """The update, counted from 0, from which this variable is trained."""
        return int(self._settings(variable.path).get("start", 0))

    def _settings(self, path: str) -> dict[str, float]:
        return next((own for pattern, own in self._groups if re.search(pattern, path)), {})

    def fresh(self, **changes: Any) -> Any:
        """A new optimizer with the same settings, except for `changes`, and no state."""
        fresh = type(self).from_config({**self.get_config(), "learning_rate": self.rate, **changes})
        # Variables that are excluded; excluded names are in the config.
        if excluded := getattr(self, "_exclude_from_weight_decay", None):
            fresh._exclude_from_weight_decay = excluded
        return fresh

    def regrouped(self, settings: Mapping[str, Mapping[str, float]]) -> Any:
        """A new optimizer with these settings of the variables at these paths, see `groups`, and no state.

        A learning rate multiplier multiplies the one that the variable has already.
        """
        members: dict[tuple[tuple[str, float], ...], list[str]] = {}
        for path, given in settings.items():
            own = self._settings(path)
            merged = {**own, **given}
            if "learning_rate_multiplier" in own.keys() & given.keys():
                merged["learning_rate_multiplier"] *= own["learning_rate_multiplier"]
            members.setdefault(tuple(sorted(merged.items())), []).append(path)
        groups = {f"^(?:{'|'.join(map(re.escape, paths))})$": dict(own) for own, paths in members.items()}
        return self.fresh(groups={**groups, **dict(self._groups)})

    # The state, by names that every engine and framework shares (`zoo.checkpoints`)

    def state_dict(self, scaler: Any = None) -> dict[str, np.ndarray]:
        """The optimizer state by name: "batches" seen, and "momentum/dense/kernel" and the like.

        With the loss scale of the keras.optimizers.LossScaleOptimizer around it, if it is given.
        """
        if not self.built:
            return {}
        found = {"batches": self._iterations}
        if self.gradient_accumulation_steps:
            found["weight_sum"] = self.weight_sum
        for kind, (variables, kept) in self._kept().items():
            found |= {f"{kind}/{v.path}": x for v, x in zip(variables, kept, strict=True)}
        if scaler is not None:
            found |= {"scale": scaler.dynamic_scale, "scale_steps": scaler.step_counter}
        return {name: ops.convert_to_numpy(x) for name, x in found.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray], scaler: Any = None) -> None:
        """Load such a state. The optimizer must be built."""
        self._iterations.assign(state["batches"])
        if self.gradient_accumulation_steps:
            self.weight_sum.assign(state["weight_sum"])
        for kind, (variables, kept) in self._kept().items():
            for variable, x in zip(variables, kept, strict=True):
                x.assign(state[f"{kind}/{variable.path}"])
        if scaler is not None:
            scaler.dynamic_scale.assign(state["scale"])
            scaler.step_counter.assign(state["scale_steps"])

    def memory(self) -> dict[str, np.ndarray]:
        """Deprecated: the old name of `state_dict`."""
        warnings.warn("Optimizer.memory is now Optimizer.state_dict", DeprecationWarning, stacklevel=2)
        return self.state_dict()

    def restore(self, memory: Mapping[str, np.ndarray]) -> None:
        """Deprecated: the old name of `load_state_dict`."""
        warnings.warn("Optimizer.restore is now Optimizer.load_state_dict", DeprecationWarning, stacklevel=2)
        self.load_state_dict(memory)

    def _kept(self) -> dict[str, tuple[Sequence[keras.Variable], Sequence[keras.Variable]]]:
        kept: dict[str, Any] = dict(self.slots)
        if self.use_ema:
            kept["average"] = self._model_variables_moving_average
        if self.gradient_accumulation_steps:
            kept["gradients"] = self._accumulated_gradients
        return {kind: (self._trainable_variables, xs) for kind, xs in kept.items()}

    # Called by Keras

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        if self.gradient_accumulation_steps:
            self.weight_sum = self.add_variable((), "zeros", "int32", name="weight_sum")
        slots = [self.add_optimizer_variables(variables, slot) for slot in self.SLOTS]
        self.slots = dict(zip(self.SLOTS, slots, strict=True))
        self._plan = tuple((*self.group(variable), self.start(variable)) for variable in variables)

    def add_variable_from_reference(
        self, reference_variable: Any, name: str | None = None, initializer: Any = "zeros"
    ) -> keras.Variable:
        def zeros(shape: Sequence[int], dtype: str) -> Tensor:
            """Zeros with the weight's memory layout: with different layouts torch takes twice as long."""
            del shape
            return ops.zeros_like(reference_variable, dtype)

        first = zeros if initializer == "zeros" else initializer
        return super().add_variable_from_reference(reference_variable, name, first)

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        index = self._get_variable_index(variable)
        multiplier, decay, self.first = self._plan[index]
        rate = ops.cast(learning_rate, variable.dtype)
        rate = rate if multiplier == 1 else rate * multiplier
        self.update(gradient, variable, rate, decay, [self.slots[slot][index] for slot in self.SLOTS])

    def update(
        self,
        gradient: Tensor,
        variable: keras.Variable,
        rate: Tensor,
        decay: float,
        slots: Sequence[keras.Variable],
    ) -> None:
        """Update one variable; `slots` is its state, in the order of `SLOTS`."""
        raise NotImplementedError

    def count(self, dtype: str) -> Tensor:
        """t, the number of the current update of the variable that is being updated, counted from 1."""
        updates = ops.subtract(self.iterations, self.first) if self.first else self.iterations
        return ops.cast(updates, dtype) + 1

    def cycled(self, dtype: str) -> Tensor:
        """The momentum (Adam's beta_1) of the current update."""
        assert self.CYCLED is not None
        own = getattr(self, self.CYCLED)
        return ops.cast(self.rate.momentum(self.iterations), dtype) if self.cycles else own

    def _get_current_learning_rate(self) -> Tensor:
        return self._learning_rate(self.iterations) if self.scheduled else self._learning_rate

    @keras.optimizers.Optimizer.learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        base: Any = keras.optimizers.Optimizer.learning_rate
        base.fset(self, value)
        self.rate = value

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        if int(ops.convert_to_numpy(self.iterations)):  # before the first update there is no average
            super().finalize_variable_values(var_list)

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        del variables  # part of each update's formula

    def apply(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> Any:
        # TensorFlow's gradient of an embedding lists the rows that were read, some repeatedly: Keras would
        # compute the norm of the list, and cannot divide it by a loss scale.
        dense = [g if g is None else backends.current().tensor(g) for g in grads]
        return super().apply(dense, trainable_variables)

    def _backend_apply_gradients(self, grads: Sequence[Tensor], variables: Sequence[keras.Variable]) -> None:
        every = self.gradient_accumulation_steps
        if not every:
            self._apply(grads, variables)
            return
        # Without branches, in which JAX allows no assignments: every step updates, and undoes the update
        # unless it is due.
        kept: list[Any] = [self._accumulated_gradients[self._get_variable_index(v)] for v in variables]
        total, share = self._share(variables)
        means: list[Any] = [
            k * ops.cast(1 - share, g.dtype) + g * ops.cast(share, g.dtype)
            for g, k in zip(grads, kept, strict=True)
        ]
        state: list[Any] = [*variables, *(x for xs in self.slots.values() for x in xs)]
        state += self._model_variables_moving_average if self.use_ema else []
        before = [ops.copy(x.value) for x in state]
        iterations: Any = self._iterations
        due = ops.equal((iterations + 1) % every, 0)
        self._apply(means, variables)
        for x, old in zip(state, before, strict=True):
            x.assign(ops.where(due, x.value, old))
        for x, mean in zip(kept, means, strict=True):
            x.assign(ops.where(due, ops.zeros_like(mean), mean))
        self.weight_sum.assign(ops.where(due, ops.zeros_like(total), total))

    def _share(self, variables: Sequence[keras.Variable]) -> tuple[Tensor, Tensor]:
        """The total weight of the batches since the last update, and this batch's fraction of it."""
        real = "float64" if any(v.dtype == "float64" for v in variables) else "float32"
        weight = ops.cast(1 if self.batch_weight is None else self.batch_weight, "int32")
        total = self.weight_sum + weight
        share = ops.cast(weight, real) / ops.cast(ops.maximum(total, 1), real)
        return total, ops.where(total > 0, share, ops.ones_like(share))

    def _apply(self, grads: Sequence[Tensor], variables: Sequence[keras.Variable]) -> None:
        self._backend_update_step(self._clip_gradients(grads), variables, self.learning_rate)
        if not self.use_ema:
            return
        self._update_model_variables_moving_average(self._trainable_variables)
        if every := self.ema_overwrite_frequency:
            updates: Any = self.iterations
            due = ops.equal((updates + 1) % every, 0)
            for x, average in zip(
                self._trainable_variables, self._model_variables_moving_average, strict=True
            ):
                x.assign(ops.where(due, average.value, x.value))

    def get_config(self) -> dict[str, Any]:
        excluded = getattr(self, "_exclude_from_weight_decay_pattern", None)
        with backends.without_tensorflow():  # of a schedule
            config = super().get_config()
        if not self.scheduled and config["learning_rate"] == float(np.float32(self.rate)):
            config["learning_rate"] = float(self.rate)  # Keras keeps it as a float32
        return {
            **config,
            "groups": {pattern: dict(own) for pattern, own in self._groups},
            "undecayed": excluded and excluded.pattern,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        undecayed = config.pop("undecayed", None)
        optimizer = super().from_config(config, custom_objects)
        if undecayed:
            optimizer.exclude_from_weight_decay(var_names=[undecayed])
        return optimizer


@keras.saving.register_keras_serializable("zoo")
class SGD(Optimizer):
    """Stochastic gradient descent, weight decay added to the gradient, as torch.optim.SGD."""

    def __init__(
        self, learning_rate: Any = 1e-3, *, weight_decay: float = 0.0, name: str = "sgd", **kwargs: Any
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)

    def update(
        self, gradient: Tensor, variable: keras.Variable, rate: Tensor, decay: float, slots: Any
    ) -> None:
        del slots
        self.assign_sub(variable, rate * decayed(gradient, variable, decay))


@keras.saving.register_keras_serializable("zoo")
class Momentum(Optimizer):
    """Gradient descent with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013), as torch.optim.SGD.

    The velocity is a sum of gradients, not of steps: a new learning rate applies to all of it.
    """

    SLOTS = ("momentum",)
    CYCLED = "momentum"

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        momentum: float = 0.9,
        *,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        name: str = "momentum",
        **kwargs: Any,
    ):
        below_one("Momentum", momentum=momentum)
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)
        self.momentum, self.nesterov = float(momentum), bool(nesterov)

    def update(
        self, gradient: Tensor, variable: keras.Variable, rate: Tensor, decay: float, slots: Any
    ) -> None:
        (v,), mu = slots, self.cycled(variable.dtype)
        g = decayed(gradient, variable, decay)
        velocity = mu * v + g
        self.assign(v, velocity)
        self.assign_sub(variable, rate * (g + mu * velocity if self.nesterov else velocity))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}


@keras.saving.register_keras_serializable("zoo")
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1), weight decay added to the gradient, as torch.optim.Adam.

    With `amsgrad` (Reddi et al. 2018) the second moment is the maximum so far, which is then bias-corrected;
    optax corrects first.
    """

    CYCLED = "beta_1"
    DECOUPLED = False  # whether weight decay is separate from the gradient

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        *,
        amsgrad: bool = False,
        weight_decay: float = 0.0,
        name: str = "adam",
        **kwargs: Any,
    ):
        who = type(self).__name__
        below_one(who, beta_1=beta_1, beta_2=beta_2)
        at_least_zero(who, epsilon=epsilon)
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = float(beta_1), float(beta_2), float(epsilon)
        self.amsgrad = bool(amsgrad)
        self.bias_correction = True

    @property
    def SLOTS(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return ("momentum", "velocity", "largest") if self.amsgrad else ("momentum", "velocity")

    def update(
        self, gradient: Tensor, variable: keras.Variable, rate: Tensor, decay: float, slots: Any
    ) -> None:
        if self.DECOUPLED:
            direction = self.direction(gradient, slots)
            kept = variable * (1 - rate * decay) if decay else variable
            self.assign(variable, kept - rate * direction)
        else:
            direction = self.direction(decayed(gradient, variable, decay), slots)
            self.assign_sub(variable, rate * direction)

    def direction(self, g: Tensor, slots: Sequence[keras.Variable]) -> Tensor:
        """r of the formulas above; updates the moments."""
        m, v, *largest = slots
        beta_1 = self.cycled(m.dtype)
        # Not m + (g - m) (1 - b1): for b1 near 0 and large m, that has the rounding error of m.
        first = beta_1 * m + (1 - beta_1) * g
        second = self.beta_2 * v + (1 - self.beta_2) * ops.square(g)
        self.assign(m, first)
        self.assign(v, second)
        for x in largest:
            second = ops.maximum(x, second)
            self.assign(x, second)
        if self.bias_correction:
            first = first / self.correction(beta_1, m.dtype)
            root = ops.sqrt(self.correction(self.beta_2, m.dtype))
            return first / (ops.sqrt(second) / root + self.epsilon)
        return first / (ops.sqrt(second) + self.epsilon)

    def correction(self, beta: Any, dtype: str) -> Tensor:
        """1 - beta^t. In float32 1 - 0.999 is off by 1.3e-5; through expm1 it is exact to rounding."""
        step = self.count(dtype)
        if isinstance(beta, float | int):
            return -ops.expm1(step * log(beta)) if beta else ops.ones_like(step)
        return -ops.expm1(step * ops.log(beta))

    def get_config(self) -> dict[str, Any]:
        names = ("beta_1", "beta_2", "epsilon", "amsgrad")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("zoo")
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), as torch.optim.AdamW."""

    DECOUPLED = True

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        *,
        amsgrad: bool = False,
        weight_decay: float = 0.01,
        name: str = "adamw",
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            amsgrad=amsgrad,
            weight_decay=weight_decay,
            name=name,
            **kwargs,
        )


@keras.saving.register_keras_serializable("zoo")
class LAMB(Adam):
    """Layer-wise adaptive moments (You et al. 2019, arXiv:1904.00962, algorithm 2), the paper's defaults.

    The trust ratio |w| / |r + d w| includes weight decay, is 1 if either norm is 0, and applies to every
    variable, decayed or not. `bias_correction=False` is the behaviour of the authors' code.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        *,
        bias_correction: bool = True,
        weight_decay: float = 0.01,
        name: str = "lamb",
        **kwargs: Any,
    ):
        if "amsgrad" in kwargs:  # an argument of Adam, which LAMB extends
            raise WrongConfiguration("LAMB takes no argument 'amsgrad'; Adam and AdamW do")
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, weight_decay=weight_decay, name=name, **kwargs
        )
        self.bias_correction = bias_correction

    def update(
        self, gradient: Tensor, variable: keras.Variable, rate: Tensor, decay: float, slots: Any
    ) -> None:
        r = decayed(self.direction(gradient, slots), variable, decay)
        size, length = norm(ops.convert_to_tensor(variable)), norm(r)
        both = ops.logical_and(size > 0, length > 0)
        ratio = ops.where(both, size / ops.where(both, length, ops.ones_like(length)), ops.ones_like(size))
        self.assign_sub(variable, rate * ratio * r)

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "bias_correction": self.bias_correction}
        del config["amsgrad"]
        return config


def decayed(x: Tensor, variable: keras.Variable, decay: float) -> Tensor:
    """x + decay w."""
    return x + decay * ops.convert_to_tensor(variable) if decay else x


def norm(x: Tensor) -> Tensor:
    """The Euclidean norm of x."""
    return ops.sqrt(ops.sum(ops.square(x)))


# Checks of the settings


def at_least_zero(who: str, **settings: float) -> None:
    """Raise WrongConfiguration, naming the argument, for a negative setting."""
    for name, value in settings.items():
        if not _number(value) or not 0 <= value < inf:
            raise WrongConfiguration(f"{who}: {name}={value!r}; expected a number, 0 or more")


def below_one(who: str, **settings: float) -> None:
    """Raise WrongConfiguration, naming the argument, for a setting outside [0, 1)."""
    for name, value in settings.items():
        if not _number(value) or not 0 <= value < 1:
            raise WrongConfiguration(f"{who}: {name}={value!r}; expected 0 <= {name} < 1")


def _number(value: Any) -> bool:
    return isinstance(value, float | int | np.floating | np.integer) and not isinstance(value, bool)


CLIPS = ("clipvalue", "clipnorm", "global_clipnorm")
COMMON = (
    *CLIPS, "use_ema", "ema_momentum", "ema_overwrite_frequency", "loss_scale_factor",
    "gradient_accumulation_steps", "name",
)  # fmt: skip


def _check_common(who: str, settings: dict[str, Any]) -> None:
    """Check the settings of all optimizers; their integers become Python's."""
    if unknown := [name for name in settings if name not in COMMON]:
        raise WrongConfiguration(f"{who} takes no argument {unknown[0]!r}; {nearest(unknown[0], COMMON)}")
    given = [name for name in CLIPS if settings.get(name) is not None]
    if len(given) > 1:
        raise WrongConfiguration(f"{who}: {' and '.join(given)} were given; expected at most one of them")
    for name in (*given, *(["loss_scale_factor"] if settings.get("loss_scale_factor") is not None else [])):
        if not _number(settings[name]) or not 0 < settings[name] < inf:
            raise WrongConfiguration(f"{who}: {name}={settings[name]!r}; expected a number above 0")
    below_one(who, ema_momentum=settings.get("ema_momentum", 0.99))
    averages = {"ema_momentum": settings.get("ema_momentum", 0.99) != 0.99}
    averages["ema_overwrite_frequency"] = settings.get("ema_overwrite_frequency") is not None
    for name in (name for name, said in averages.items() if said and not settings.get("use_ema")):
        raise WrongConfiguration(f"{who}: {name}={settings[name]!r} needs use_ema=True")
    for name, least in {"gradient_accumulation_steps": 2, "ema_overwrite_frequency": 1}.items():
        if (value := settings.get(name)) is not None:
            settings[name] = integer(who, name, value, least)


GROUP_SETTINGS = ("learning_rate_multiplier", "weight_decay", "start")


def _checked_groups(who: str, groups: Any) -> tuple[tuple[str, dict[str, float]], ...]:
    if groups is not None and not isinstance(groups, Mapping):
        raise WrongConfiguration(f"{who}: groups={groups!r}; expected a dict from patterns to settings")
    for pattern, own in (groups or {}).items():
        if not isinstance(own, Mapping):
            raise WrongConfiguration(
                f"{who}: groups[{pattern!r}]={own!r}; expected a dict of {', '.join(GROUP_SETTINGS)}"
            )
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise WrongConfiguration(
                f"{who}: groups: {pattern!r} is not a regular expression: {error}"
            ) from None
        for name, value in own.items():
            if name not in GROUP_SETTINGS:
                raise WrongConfiguration(
                    f"{who}: groups: no setting {name!r}; {nearest(name, GROUP_SETTINGS)}"
                )
            at_least_zero(f"{who}: groups[{pattern!r}]", **{name: value})
    return tuple((pattern, dict(own)) for pattern, own in (groups or {}).items())
