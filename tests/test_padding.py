"""Padding before, amid and behind the tokens, and rows of nothing else: one meaning on every framework."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import everywhere, numpy
from numpy import ndarray
from scipy.special import softmax

from zoo import backends, layers, random
from zoo._lazy import ops
from zoo.layers import Input, Model

HERE = backends.current()
BOUND = 2e-6  # float32, of the largest value
MASK = np.array(
    [
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 1],
        [0, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ],
    np.int32,
)


def noise(*shape: int) -> ndarray:
    return random.generator("test", *shape).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("dropout_rate", [0.0, 0.3])
@pytest.mark.parametrize("causal", [False, True])
def test_a_query_that_sees_padding_alone_gives_zeros_and_has_no_gradient(
    causal: bool, dropout_rate: float
) -> None:
    """softmax over the real keys that are not later, its outputs and its gradients in float64."""
    x, mask = Input((6, 8), name="x"), Input((6,), dtype="int32", name="mask")
    shift = [layers.parameter(x, (5, 6, 8), name=part) for part in "qkv"]
    attend = layers._layers().Attention(2, causal, True, dropout_rate, name="a")
    model = Model({"x": x, "mask": mask}, attend(x + shift[0], x + shift[1], x + shift[2], mask))
    data, upstream = noise(5, 6, 8), noise(5, 6, 8).astype(np.float64)[::-1].copy()

    def loss(y: Any, outputs: Any) -> Any:
        return ops.sum(y * outputs)

    inputs = backends.tensors({"x": data, "mask": MASK})
    value, gradients, _ = HERE.gradients(model, loss)(inputs, HERE.tensor(np.float32(upstream)))

    heads, out = data.astype(np.float64).reshape(5, 6, 2, 4).transpose(0, 2, 1, 3), upstream
    seen = np.broadcast_to(MASK[:, None, None, :] == 1, (5, 2, 6, 6))
    seen = np.tril(seen) if causal else seen
    sees = np.asarray(seen.any(-1, keepdims=True))
    scores = np.where(seen | ~sees, heads @ heads.transpose(0, 1, 3, 2) / 2, -np.inf)
    p, keep = softmax(scores, -1) * sees, np.ones(1)
    if dropout_rate:
        key = random.key32(0, "a_dropout", "dropout")
        keep = numpy(random.keep((5, 2, 6, 6), dropout_rate, key, np.int32(0))) / (1 - dropout_rate)
    y = (p * keep @ heads).transpose(0, 2, 1, 3).reshape(5, 6, 8)
    dy = out.reshape(5, 6, 2, 4).transpose(0, 2, 1, 3)
    dp = dy @ heads.transpose(0, 1, 3, 2) * keep
    ds = p * (dp - (dp * p).sum(-1, keepdims=True)) / 2
    theirs = [ds @ heads, ds.transpose(0, 1, 3, 2) @ heads, (p * keep).transpose(0, 1, 3, 2) @ dy]

    outputs = numpy(model(inputs))
    if not dropout_rate:
        assert np.abs(outputs - y).max() <= BOUND * np.abs(y).max()
    assert not outputs[~sees[:, 0, :, 0]].any()
    assert abs(float(numpy(value)) - (y * out).sum()) <= BOUND * np.abs(y * out).sum()
    for ours, each in zip(gradients, theirs, strict=True):
        each = each.transpose(0, 2, 1, 3).reshape(5, 6, 8)
        assert np.abs(numpy(ours) - each).max() <= BOUND * np.abs(each).max()


def test_no_query_sees_a_later_key_even_if_a_bias_hides_all_others() -> None:
    """Of one key that a causal query sees, the value; however low its score."""
    x = noise(1, 6, 2, 4)
    bias = np.full((1, 1, 6, 6), -1e9, np.float32)
    tensors = [HERE.tensor(part) for part in (x, x, x, bias)]
    y = numpy(HERE.attention(*tensors, causal=True, scale=0.5))
    assert np.abs(y[:, 0] - x[:, 0]).max() <= BOUND * np.abs(x).max()


EVERY_MODEL = """
import numpy as np
import zoo
from zoo import backends
from zoo._lazy import keras, ops

here, found = backends.current(), {}
for name in ("gpt-nano", "t5-tiny", "birnn", "seq2seq", "speech"):
    model, inputs = zoo.build(name, **zoo.card(name).small), {}
    for tensor in model.inputs:
        x = zoo.random.generator("padding", name, tensor.name).integers(1, 11, (5, MASK.shape[1]))
        real = MASK if tensor.name != "decoder_token_ids" else np.ones_like(MASK)
        x = np.int32(real if tensor.name.endswith("mask") else x * real)
        if tensor.name == "segment_ids":
            x %= 2
        if name == "speech":
            x = np.float32(x[..., None] * np.arange(1, 9) / 20)
        inputs[tensor.name] = x
    inputs = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    tensors, nothing = backends.tensors(inputs), here.tensor(np.zeros(1, np.float32))
    real_parts = lambda y: ops.sum(ops.softmax(y) * ops.softmax(y))
    value, gradients, _ = here.gradients(model, lambda _, y: real_parts(y))(tensors, nothing)
    arrays = [here.predictor(model, "eager")(tensors), value, *gradients]
    for i, array in enumerate(arrays):
        found[f"{name}/{i}"] = ops.convert_to_numpy(array)
np.savez(FILE.format(here.NAME), **found)
"""


@pytest.mark.parity
def test_every_sequence_model_gives_the_same_outputs_and_gradients_everywhere(tmp_path: Path) -> None:
    """In inference and in training, whose dropout is the same."""
    mask = np.repeat(MASK, 2, axis=1).tolist()  # speech reads four frames for each of its steps
    everywhere(
        f"import numpy as np\nMASK, FILE = np.array({mask}), {str(tmp_path / '{}.npz')!r}\n{EVERY_MODEL}"
    )
    first, *others = (np.load(tmp_path / f"{name}.npz") for name in backends.NAMES)
    for other in others:
        assert first.files == other.files
        for name in first.files:
            model = name.split("/")[0]
            largest = max(
                np.abs(first[n]).max()
                for n in first.files
                if n.startswith(model) and n[-2:] not in ("/0", "/1")
            )
            scale = np.abs(first[name]).max() if name[-2:] in ("/0", "/1") else largest
            assert np.abs(first[name] - other[name]).max() <= 1e-5 * scale, name
