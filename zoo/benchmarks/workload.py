"""What is timed: batch sizes, batches, the number of steps."""

from __future__ import annotations

from math import log2
from typing import Any

from zoo import random, registry, tasks
from zoo.layers import signature
from zoo.registry import Card
from zoo.training.recipes import recipe

LENGTH = 128  # tokens or frames of a sequence, approximately
PROMPT = 16  # tokens before the GENERATED ones of a step
GENERATED = 64
MULTIPLY_ADDS = 8e9  # of the forward pass of a batch: training on it takes two cores about a second


def batch_for(card: Card) -> int:
    """The recipe's batch size; for a large model less, a power of two of about `MULTIPLY_ADDS`."""
    affordable = 2 ** max(0, round(log2(MULTIPLY_ADDS / multiply_adds(card))))
    return min(recipe(card.recipe).batch_size, affordable)


def multiply_adds(card: Card) -> int:
    """Of the forward pass of an example; a sequence has `LENGTH` steps."""
    return card.multiply_adds * (LENGTH if None in card.input else 1)


def rounds_and_burst(card: Card, batch_size: int) -> tuple[int, int]:
    """The number of bursts, and of steps in a burst: many of many short steps, or a few of one long step."""
    burst = min(10, max(1, round(MULTIPLY_ADDS / (batch_size * multiply_adds(card)))))
    return (10 if burst == 1 else 22), burst


def batch(card: Card, size: int) -> tuple[Any, Any, str]:
    """x, y and the name of the loss: of the card's task, or noise in place of natural images."""
    if card.preprocessing is None:
        # The input shapes of sequences depend on the names of the inputs.
        shape = signature.input_shapes(build(card)) if None in card.input else card.input
        task = tasks.load(card.task, shape)
        return *next(task.batches(size, 0, 0)), task.loss
    rng = random.generator(0, "bench")
    images = rng.standard_normal((size, *card.input), dtype="float32")
    return images, rng.integers(0, card.arguments["classes"], size, dtype="int32"), "cross_entropy"


def build(card: Card) -> Any:
    """The model in full size, without dropout."""
    rates = [name for name in ("dropout_rate", "drop_path_rate") if name in card.arguments]
    arguments: dict[str, Any] = dict.fromkeys(rates, 0.0)
    if card.arguments.get("head") == "encoder":
        arguments["head"] = "masked_lm"
    return registry.build(card.name, **arguments)
