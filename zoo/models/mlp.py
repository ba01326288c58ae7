"""The multilayer perceptron: stacked affine maps with a nonlinearity between them.

Rumelhart, Hinton and Williams 1986, "Learning representations by back-propagating errors",
https://doi.org/10.1038/323533a0

    h_0 = x      h_i = f(h_(i-1) W_i + b_i)      logits = h_n W + b

Axes: b batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.layers import Input, Model, activate, dense, dropout, flatten
from zoo.registry import register

if TYPE_CHECKING:
    import keras


def mlp(
    widths: tuple[int, ...] = (256, 128),
    *,
    activation: str = "relu",
    dropout_rate: float = 0.0,
    shape: tuple[int, ...] = (28, 28, 1),
    classes: int = 10,
) -> keras.Model:
    """Build an MLP with hidden layers of these widths, over examples of any shape, flattened."""
    inputs = Input(shape)
    x = flatten(inputs)  # (b, 784)
    for i, width in enumerate(widths, start=1):
        x = activate(dense(x, width, name=f"hidden{i}"), activation)  # (b, width)
        x = dropout(x, dropout_rate, name=f"dropout{i}")
    return Model(inputs, dense(x, classes, name="head"))  # (b, classes)


register(
    "mlp",
    mlp,
    parameters=235_146,
    multiply_adds=234_752,
    small={"widths": (16, 8), "shape": (8, 8, 1), "dropout_rate": 0.25},
    about={
        "paper": 'Rumelhart, Hinton, Williams 1986, "Learning representations by back-propagating errors"',
        "url": "https://doi.org/10.1038/323533a0",
        "year": 1986,
        "idea": "Stacked affine maps with a nonlinearity between them, trained by back-propagation.",
        "task": "digits",
        "recipe": "mlp",
    },
)
