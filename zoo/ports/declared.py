"""The rule that an optimizer's declared settings stand for, by the conventions of its library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

import numpy as np

from zoo.ports.rules import AFTER, BEFORE, COUPLED, DECOUPLED, FLOOR, INSIDE, OUTSIDE, UNSCALED, WITHIN, Rule

Settings = Mapping[str, Any]
Fields = dict[str, Any]
HIGHEST = "of the second moment {} its bias correction"
MATRIX = 2


def rule_of(kind: str, settings: Settings, rates: Sequence[float], rank: int) -> Rule | None:
    """The rule of a weight of this rank; None if the optimizer is unknown."""
    multiplier = settings.get("rate_multiplier", 1.0)
    rates = tuple(float(rate) * multiplier for rate in rates)
    if "chain" in settings:
        fields = _optax(settings["chain"])
        return Rule(rates=rates, **fields) if fields else None
    name = (
        kind.rpartition("(")[2].rstrip(")").rpartition(".")[2].lower()
    )  # of a class of torch's that is derived
    if "keras" in kind or "zoo.optimizers" in kind:
        fields = _keras(name, settings, rank, torch_like="zoo" in kind)
        fields = {**_around(settings), **fields} if fields else None
    else:
        fields = _torch(name or _guess(settings), settings)
        if name == "adagrad" and settings.get("lr_decay"):
            rates = tuple(a / (1 + t * settings["lr_decay"]) for t, a in enumerate(rates))
        if name == "rprop":  # whose rate is the first step
            fields, rates = {**(fields or {}), "initial": rates[0]}, (1.0,) * len(rates)
    return Rule(rates=rates, **fields) if fields else None


def _guess(settings: Settings) -> str:
    """The torch optimizer that a class of the user's own resembles by its settings."""
    return "adam" if "betas" in settings else "sgd"


def _torch(name: str, s: Settings) -> Fields | None:
    betas = s.get("betas") or (0.9, 0.999)
    adam = {"beta1": betas[0], "beta2": betas[1], "epsilon": _number(s.get("eps"))}
    highest = HIGHEST.format("before") if s.get("amsgrad") else "no"
    families: dict[str, Callable[[], Fields]] = {
        "sgd": lambda: {
            "family": "sgd", "momentum": s.get("momentum", 0.0), "dampening": s.get("dampening", 0.0),
            "nesterov": bool(s.get("nesterov")),
        },
        "adam": lambda: {"family": "adam", **adam, "amsgrad": highest},
        "adamw": lambda: {"family": "adam", **adam, "amsgrad": highest},
        "radam": lambda: {"family": "radam", **adam, "epsilon_place": BEFORE},
        "nadam": lambda: {
            "family": "adam", **adam, "nesterov": True, "momentum_decay": s["momentum_decay"],
            "float32_product": True,
        },
        "adamax": lambda: {**adam, "family": "adamax", "epsilon_place": WITHIN},
        "rmsprop": lambda: {
            "family": "rmsprop", "beta2": s["alpha"], "epsilon": s["eps"], "momentum": s["momentum"],
            "centered": s["centered"],
        },
        "adagrad": lambda: {
            "family": "adagrad", "epsilon": s["eps"], "initial": s["initial_accumulator_value"],
        },
        "adadelta": lambda: {
            "family": "adadelta", "beta2": s["rho"], "epsilon": s["eps"], "epsilon_place": INSIDE,
        },
        "rprop": lambda: {"family": "rprop", "coefficients": (*s["etas"], *s["step_sizes"])},
        "adafactor": lambda: {
            "family": "adafactor", "epsilon": s["eps"][0] or float(np.finfo(np.float64).eps), "clip": s["d"],
            "minimum_scale": s["eps"][1], "beta2_decay": -s["beta2_decay"], "relative_step": True,
            "epsilon_place": FLOOR,
        },
        "muon": lambda: {
            "family": "muon", "momentum": s["momentum"], "nesterov": s["nesterov"], "epsilon": s["eps"],
            "dampening": s["momentum"], "epsilon_place": FLOOR, "iterations": s["ns_steps"],
            "coefficients": tuple(s["ns_coefficients"]),
            "scale": "0.2 sqrt(max(rows, columns))" if s["adjust_lr_fn"] == "match_rms_adamw"
            else "sqrt(max(1, rows / columns))",
        },
    }  # fmt: skip
    if name not in families:
        return None
    decoupled = s.get("decoupled_weight_decay") or name in ("adamw", "adafactor", "muon")
    return {
        **families[name](), "decay": s.get("weight_decay", 0.0), "maximize": bool(s.get("maximize")),
        "decay_form": DECOUPLED if decoupled else COUPLED,
    }  # fmt: skip


def _number(value: Any) -> float:
    return float((value[0] if isinstance(value, tuple | list) else value) or 0.0)


def _keras(name: str, s: Settings, rank: int, torch_like: bool) -> Fields | None:
    decay = {"decay": s.get("weight_decay") or 0.0, "decay_form": DECOUPLED}
    adam = {"family": "adam", "beta1": s.get("beta_1", 0.9), "beta2": s.get("beta_2", 0.999)}
    adam["epsilon"] = s.get("epsilon") or 0.0
    highest = HIGHEST.format("before") if s.get("amsgrad") else "no"
    sgd = {"family": "sgd", "momentum": s.get("momentum", 0.0), "nesterov": bool(s.get("nesterov"))}
    if torch_like:
        if name in ("sgd", "momentum"):
            return {**sgd, **decay, "decay_form": COUPLED}
        form = COUPLED if name == "adam" else DECOUPLED
        trust = "with the decay" if name == "lamb" else "no"
        return {**adam, **decay, "decay_form": form, "amsgrad": highest, "trust": trust}
    fields: Fields | None = {
        "sgd": {**sgd, "rate_in_velocity": True},
        "adam": {**adam, "epsilon_place": BEFORE, "amsgrad": highest},
        "adamw": {**adam, "epsilon_place": BEFORE, "amsgrad": highest},
        "nadam": {**adam, "nesterov": True, "momentum_decay": 1.0},
        "adamax": {**adam, "family": "adamax", "epsilon_place": AFTER},
        "lamb": {**adam, "trust": "without the decay", "decay_first": True},
        "lion": {"family": "lion", "beta1": adam["beta1"], "beta2": s.get("beta_2", 0.99)},
        "rmsprop": {
            "family": "rmsprop", "beta2": s.get("rho"), "centered": s.get("centered"),
            "momentum": s.get("momentum"), "rate_in_velocity": True, "epsilon": adam["epsilon"],
            "epsilon_place": INSIDE,
        },
        "adagrad": {
            "family": "adagrad", "initial": s.get("initial_accumulator_value"), "epsilon": adam["epsilon"],
            "epsilon_place": INSIDE,
        },
        "adadelta": {
            "family": "adadelta", "beta2": s.get("rho"), "epsilon": adam["epsilon"], "epsilon_place": INSIDE,
        },
        "adafactor": {
            "family": "adafactor", "epsilon": s.get("epsilon_1"), "minimum_scale": s.get("epsilon_2"),
            "clip": s.get("clip_threshold"), "beta2_decay": -(s.get("beta_2_decay") or 0.0),
            "relative_step": True, "epsilon_place": INSIDE, "decay_first": True,
        },
        "muon": _keras_muon(s, rank),
    }.get(name)  # fmt: skip
    return {**decay, **fields} if fields else None


def _around(s: Settings) -> Fields:
    """What Keras's base class does before and after an update."""
    every = s.get("ema_overwrite_frequency") if s.get("use_ema") else None
    return {
        "clip_value": s.get("clipvalue") or inf, "clip_norm": s.get("clipnorm") or inf,
        "clip_global": (s.get("global_clipnorm") or inf, 0.0),
        **({"average": s["ema_momentum"], "average_every": every} if every else {}),
    }  # fmt: skip


def _keras_muon(s: Settings, rank: int) -> Fields:
    if rank != MATRIX or not s.get("matrix", True):
        return {
            "family": "adam", "beta1": s.get("adam_beta_1"), "beta2": s.get("adam_beta_2"),
            "epsilon": s.get("epsilon"), "epsilon_place": BEFORE,
        }  # fmt: skip
    known = {None: "none", 0.2: "0.2 sqrt(max(rows, columns))"}
    return {
        "family": "muon", "momentum": s.get("momentum"), "nesterov": s.get("nesterov"), "epsilon": 1e-7,
        "iterations": s.get("ns_steps"), "scale": known.get(s.get("rms_rate"), "none"),
        "coefficients": (s.get("muon_a"), s.get("muon_b"), s.get("muon_c")),
    }  # fmt: skip


def _optax(chain: Sequence[tuple[str, Settings]]) -> Fields | None:
    """The fields of transformations in their order: what follows the learning rate is not scaled by it."""
    fields: Fields = {"family": "sgd"}
    scaled = directed = False
    for kind, s in chain:
        if kind in ("scale", "scale_by_schedule"):
            scaled = True
        elif kind == "add_decayed_weights":
            fields["decay"] = s["weight_decay"]
            fields["decay_form"] = UNSCALED if scaled else DECOUPLED if directed else COUPLED
        elif kind in ("trace", "ema"):
            fields |= {
                "momentum": s["decay"],
                "nesterov": bool(s.get("nesterov")),
                "rate_in_velocity": scaled,
            }
            if kind == "ema":
                fields |= {"dampening": s["decay"], "dampens_first": True}
            directed = True
        elif kind == "scale_by_trust_ratio":
            fields["trust"] = "with the decay" if "decay" in fields else "without the decay"
        elif kind in ("clip", "clip_by_global_norm") and not (scaled or directed):
            limit = s["max_delta"] if kind == "clip" else (s["max_norm"], 0.0)
            fields["clip_value" if kind == "clip" else "clip_global"] = limit
        elif kind == "clip_by_block_rms":
            fields["clip"] = s["threshold"]
        elif kind == "scale_by_param_block_rms":
            fields["minimum_scale"] = s["min_scale"]
        elif kind == "scale_by_shape":
            fields["scale"] = SHAPES.get(s.get("consistent_rms"), "none")
        elif kind in OPTAX:
            fields |= OPTAX[kind](s)
            directed = True
        else:
            return None
    return fields


SHAPES = {None: "sqrt(max(1, columns / rows))", 0.2: "0.2 sqrt(max(rows, columns))"}


def _moments(s: Settings) -> Fields:
    return {
        "family": "adam", "beta1": s["b1"], "beta2": s["b2"], "epsilon": s.get("eps", 0.0),
        "epsilon_root": s.get("eps_root", 0.0), "nesterov": bool(s.get("nesterov")),
    }  # fmt: skip


def _mean_square(s: Settings) -> Fields:
    return {
        "family": "rmsprop", "beta2": s["decay"], "epsilon": s["eps"], "initial": s["initial_scale"],
        "epsilon_place": INSIDE if s["eps_in_sqrt"] else OUTSIDE,
    }  # fmt: skip


OPTAX: dict[str, Callable[[Settings], Fields]] = {
    "scale_by_adam": _moments,
    "scale_by_amsgrad": lambda s: {**_moments(s), "amsgrad": HIGHEST.format("after")},
    "scale_by_radam": lambda s: {**_moments(s), "family": "radam"},
    "scale_by_adamax": lambda s: {**_moments(s), "family": "adamax", "epsilon_place": WITHIN},
    "scale_by_lion": lambda s: {"family": "lion", "beta1": s["b1"], "beta2": s["b2"]},
    "scale_by_rms": _mean_square,
    "scale_by_stddev": lambda s: {**_mean_square(s), "centered": True},
    "scale_by_rss": lambda s: {
        "family": "adagrad", "initial": s["initial_accumulator_value"], "epsilon": s["eps"],
        "epsilon_place": INSIDE,
    },
    "scale_by_adadelta": lambda s: {
        "family": "adadelta", "beta2": s["rho"], "epsilon": s["eps"], "epsilon_place": INSIDE,
    },
    "scale_by_rprop": lambda s: {
        "family": "rprop", "initial": s["learning_rate"], "late": True,
        "coefficients": (s["eta_minus"], s["eta_plus"], s["min_step_size"], s["max_step_size"]),
    },
    "scale_by_factored_rms": lambda s: {
        "family": "adafactor", "beta2_decay": s["decay_rate"], "epsilon": s["epsilon"],
        "epsilon_place": INSIDE, "clip": inf,
        "factored_from": s["min_dim_size_to_factor"] if s["factored"] else 10**9,
    },
    "scale_by_muon": lambda s: {
        "family": "muon", "momentum": s["beta"], "nesterov": s["nesterov"], "epsilon": s["eps"],
        "iterations": s["ns_steps"], "coefficients": tuple(s["ns_coeffs"]), "momentum_correction": True,
        "dampening": s["beta"],
    },
}  # fmt: skip
