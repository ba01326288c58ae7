"""Optimizers with torch.optim's meaning, for `compile` and for the native engine alike.

Keras's own differ: SGD folds the learning rate into its velocity, so that a schedule diverges; Adam's
epsilon sits elsewhere and is 1e-7. Here, with gradient g, rate a, decay d:

    SGD      g <- g + d w                                w <- w - a g
    AdamW    w <- (1 - a d) w
             m <- b1 m + (1 - b1) g                      v <- b2 v + (1 - b2) g^2
             w <- w - a / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + e)

Arguments go by Keras's names with torch's defaults. One object describes the optimizer for both engines;
`zoo.backends` builds its native twin (torch.optim, optax; TensorFlow's own optimizers are Keras's).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

from zoo._lazy import keras, ops
from zoo.errors import WrongConfiguration

Tensor = Any


class Optimizer(keras.optimizers.Optimizer):
    """What the optimizers share: checked settings, and their description for the native twin."""

    def __init__(self, learning_rate: Any, *, weight_decay: float = 0.0, **kwargs: Any):
        scheduled = isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule)
        if not scheduled:
            at_least_zero(type(self).__name__, learning_rate=learning_rate)
        at_least_zero(type(self).__name__, weight_decay=weight_decay)
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self.rate, self.scheduled = learning_rate, scheduled

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if not self.scheduled:
            return self.rate
        return self.rate.at(step) if hasattr(self.rate, "at") else float(self.rate(step))

    def decays(self, variable: keras.Variable) -> bool:
        """Whether weight decay applies to this variable (see `exclude_from_weight_decay`)."""
        return self._use_weight_decay(variable)

    def fresh(self) -> Optimizer:
        """The same optimizer without its memory: a native run starts anew, as torch's and optax's do."""
        twin = type(self).from_config({**self.get_config(), "learning_rate": self.rate})
        for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
            if hasattr(self, name):
                setattr(twin, name, getattr(self, name))
        return twin

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        del variables  # each update step has it in its formula

    def settings(self) -> dict[str, Any]:
        """The arguments a native twin needs. Raises WrongConfiguration for what has no twin."""
        config = self.get_config()
        for name in KERAS_ONLY:
            if config.get(name):
                raise WrongConfiguration(
                    f"{type(self).__name__}: {name}={config[name]!r} has no native twin. Leave it out, or "
                    "train with engine='keras'."
                )
        return {**config, "learning_rate": self.rate, "weight_decay": self.weight_decay}


# Settings of Keras's optimizer base that only Keras's own training step applies.
KERAS_ONLY = (
    "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "loss_scale_factor", "gradient_accumulation_steps",
)  # fmt: skip


@keras.saving.register_keras_serializable("zoo")
class SGD(Optimizer):
    """Stochastic gradient descent, weight decay added to the gradient, as torch.optim.SGD."""

    def __init__(
        self, learning_rate: Any = 1e-3, *, weight_decay: float = 0.0, name: str = "sgd", **kwargs: Any
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        dtype = variable.dtype
        if self.weight_decay and self.decays(variable):
            gradient = gradient + ops.cast(self.weight_decay, dtype) * variable
        self.assign_sub(variable, ops.cast(learning_rate, dtype) * gradient)


@keras.saving.register_keras_serializable("zoo")
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), as torch.optim.AdamW."""

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        *,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        name: str = "adamw",
        **kwargs: Any,
    ):
        below_one("AdamW", beta_1=beta_1, beta_2=beta_2)
        at_least_zero("AdamW", epsilon=epsilon)
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self.momentums, self.velocities = self.add_optimizer_variables(variables, ["momentum", "velocity"])

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        dtype = variable.dtype
        rate, step = ops.cast(learning_rate, dtype), ops.cast(self.iterations, dtype) + 1
        index = self._get_variable_index(variable)
        m, v = self.momentums[index], self.velocities[index]
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        step_size = rate / _one_minus_power(self.beta_1, step)
        deviation = ops.sqrt(v) / ops.sqrt(_one_minus_power(self.beta_2, step)) + self.epsilon
        kept = variable * (1 - rate * self.weight_decay) if self.decays(variable) else variable
        self.assign(variable, kept - step_size * (m / deviation))

    def get_config(self) -> dict[str, Any]:
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), **own}


def _one_minus_power(beta: float, step: Tensor) -> Tensor:
    """1 - beta^step. In float32 1 - 0.999 is off by 1.3e-5; through expm1 it is exact to rounding."""

    return -ops.expm1(step * log(beta)) if beta else ops.ones_like(step)


def at_least_zero(who: str, **settings: float) -> None:
    """Raise WrongConfiguration, naming the argument, for a negative setting."""
    for name, value in settings.items():
        if not value >= 0:
            raise WrongConfiguration(f"{who}: {name}={value!r}; expected 0 or more")


def below_one(who: str, **settings: float) -> None:
    """Raise WrongConfiguration, naming the argument, for a setting outside [0, 1)."""
    for name, value in settings.items():
        if not 0 <= value < 1:
            raise WrongConfiguration(f"{who}: {name}={value!r}; expected 0 <= {name} < 1")
