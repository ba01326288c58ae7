"""Recomputation of a part of a model in the backward pass (Chen et al. 2016, arXiv:1604.06174)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo._lazy import keras, ops


def recompute(call: Any, layers: Sequence[keras.layers.Layer], *given: Any) -> Any:
    """`call(*given)`, which uses the variables of these layers, computed again in the backward pass.

    The second time from the state of the first, so that dropout's mask is the same.
    """
    trained, state = (
        list({id(v): v for layer in layers for v in getattr(layer, name)}.values())
        for name in ("trainable_variables", "non_trainable_variables")
    )
    # Copies of the state, as torch assigns in place.
    before = [*(v.value for v in trained), *(ops.copy(v.value) for v in state), *given]
    reals = [i for i, x in enumerate(before) if _has_gradient(x)]

    def pure(*values: Any) -> tuple[Any, list[Any], list[Any]]:
        here = dict(zip(reals, values, strict=True))
        now = [here.get(i, x) for i, x in enumerate(before)]
        mapping = list(zip([*trained, *state], now, strict=False))
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
            outputs = call(*now[len(mapping) :])
        return outputs, [ops.convert_to_tensor(scope.get_current_value(v)) for v in state], scope.losses

    outputs, after, losses = keras.remat(pure)(*(before[i] for i in reals))
    for variable, value in zip(state, after, strict=True):
        variable.assign(value)
    for loss in losses:  # of activities
        layers[0].add_loss(loss)
    return outputs


def _has_gradient(x: Any) -> bool:
    return ops.is_tensor(x) and keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))
