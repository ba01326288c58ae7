"""Weights of torch.nn.LSTM and torch.nn.GRU: against torch's own modules, and its equations in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy
from conftest import numpy
from numpy import ndarray
from scipy.special import expit

import zoo
from zoo import layers, random
from zoo.layers import Input, Model

BOUND = 1e-5  # float32, of the largest logit
VOCABULARY, CHANNELS, UNITS, CLASSES = 11, 6, 8, 3
LENGTHS = (7, 3, 1, 5)
# model, cell, depth
CASES = (
    ("lstm", "lstm", 1), ("lstm", "lstm", 3), ("gru", "gru", 1), ("gru", "gru", 2),
    ("birnn", "lstm", 1), ("birnn", "lstm", 2), ("birnn", "gru", 2),
)  # fmt: skip
GATES = {"lstm": 4, "gru": 3}
every_case = pytest.mark.parametrize(("name", "cell", "depth"), CASES)


def build(name: str, cell: str, depth: int, **changes: Any) -> keras.Model:
    sizes = {"vocabulary": VOCABULARY, "embedding_width": CHANNELS, "width": UNITS, "classes": CLASSES}
    return zoo.build(name, cell=cell, depth=depth, **{**sizes, **changes})


def padded() -> ndarray:
    """Texts of `LENGTHS`, padded by token 0."""
    tokens = random.generator("test", "tokens").integers(1, VOCABULARY, (len(LENGTHS), max(LENGTHS)))
    return np.where(np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None], tokens, 0).astype(np.int32)


def off(ours: ndarray, theirs: ndarray) -> float:
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def values(model: keras.Model) -> dict[str, ndarray]:
    return {v.path: np.array(numpy(v)) for v in model.variables}


# --- by names and equations, without torch ---


def state_dict(name: str, cell: str, depth: int) -> dict[str, ndarray]:
    """Random arrays, named and shaped as the documentation of torch.nn.LSTM and torch.nn.GRU says."""
    rows, endings = GATES[cell] * UNITS, ("", "_reverse") if name == "birnn" else ("",)
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (VOCABULARY, CHANNELS)}
    for layer in range(depth):
        below = len(endings) * UNITS if layer else CHANNELS
        for ending in endings:
            shapes[f"rnn.weight_ih_l{layer}{ending}"] = (rows, below)
            shapes[f"rnn.weight_hh_l{layer}{ending}"] = (rows, UNITS)
            shapes[f"rnn.bias_ih_l{layer}{ending}"] = (rows,)
            shapes[f"rnn.bias_hh_l{layer}{ending}"] = (rows,)
    shapes |= {"head.weight": (CLASSES, len(endings) * UNITS), "head.bias": (CLASSES,)}
    return {
        key: random.generator("test", key).standard_normal(shape, dtype=np.float32) / 2
        for key, shape in shapes.items()
    }


def read(x: ndarray, weights: Mapping[str, ndarray], end: str) -> ndarray:
    """(n, c) -> h at every step (n, u): the equations of torch's documentation, in float64."""
    h, c, found = np.zeros(UNITS), np.zeros(UNITS), []
    for row in x:
        given = weights[f"rnn.weight_ih_{end}"] @ row + weights[f"rnn.bias_ih_{end}"]
        kept = weights[f"rnn.weight_hh_{end}"] @ h + weights[f"rnn.bias_hh_{end}"]
        if len(given) == 4 * UNITS:
            i, f, g, o = np.split(given + kept, 4)
            c = expit(f) * c + expit(i) * np.tanh(g)
            h = expit(o) * np.tanh(c)
        else:
            (r, z, n), (r_, z_, n_) = np.split(given, 3), np.split(kept, 3)
            n = np.tanh(n + expit(r + r_) * n_)
            h = (1 - expit(z + z_)) * n + expit(z + z_) * h
        found.append(h)
    return np.array(found)


def logits(tokens: ndarray, weights: Mapping[str, ndarray], depth: int) -> ndarray:
    """Of each text by itself, without its padding."""
    weights = {key: x.astype(np.float64) for key, x in weights.items()}
    found = []
    for text, n in zip(tokens, LENGTHS, strict=True):
        x = weights["embedding.weight"][text[:n]]
        last = x
        for layer in range(depth):
            ways = [read(x, weights, f"l{layer}")]
            last = [ways[0][-1]]
            if f"rnn.weight_ih_l{layer}_reverse" in weights:
                ways.append(read(x[::-1], weights, f"l{layer}_reverse")[::-1])
                last.append(ways[1][0])
            x = np.concatenate(ways, axis=1)
        found.append(weights["head.weight"] @ np.concatenate(last) + weights["head.bias"])
    return np.array(found)


@every_case
def test_arrays_by_torchs_names_compute_what_its_documentation_says(name: str, cell: str, depth: int) -> None:
    arrays, tokens = state_dict(name, cell, depth), padded()
    model = build(name, cell, depth)
    done = zoo.weights.from_torch(model, arrays)
    assert (done.layout, done.tensors, done.notes) == ("torch", len(arrays), ())
    assert off(numpy(model(tokens)), logits(tokens, arrays, depth)) <= BOUND


@every_case
def test_a_file_by_torchs_names_holds_what_was_loaded(
    name: str, cell: str, depth: int, tmp_path: Path
) -> None:
    arrays, model = state_dict(name, cell, depth), build(name, cell, depth)
    zoo.weights.from_torch(model, arrays)
    zoo.weights.save(model, tmp_path / "model.safetensors", layout="torch")
    saved = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert saved.keys() == arrays.keys()
    for key, x in arrays.items():
        np.testing.assert_array_equal(saved[key], x, err_msg=key)


def test_each_of_our_arrays_is_the_one_of_theirs_that_its_name_says() -> None:
    """Layers from 1 here, from 0 there; kernels transposed; the backward direction is "_reverse"."""
    arrays, model = state_dict("birnn", "lstm", 2), build("birnn", "lstm", 2)
    zoo.weights.from_torch(model, arrays)
    layer = model.get_layer("layer2_backward")
    np.testing.assert_array_equal(numpy(layer.kernel), arrays["rnn.weight_ih_l1_reverse"].T)
    np.testing.assert_array_equal(numpy(layer.recurrent_kernel), arrays["rnn.weight_hh_l1_reverse"].T)
    np.testing.assert_array_equal(numpy(layer.bias), arrays["rnn.bias_ih_l1_reverse"])
    np.testing.assert_array_equal(numpy(layer.recurrent_bias), arrays["rnn.bias_hh_l1_reverse"])


# --- refusals ---


def without(arrays: Mapping[str, ndarray], part: str) -> dict[str, ndarray]:
    return {key: x for key, x in arrays.items() if part not in key}


PROJECTED = {  # torch.nn.LSTM(6, 8, proj_size=5): h is W_hr h, of 5 numbers
    **state_dict("lstm", "lstm", 1),
    "rnn.weight_hh_l0": np.zeros((32, 5), np.float32),
    "rnn.weight_hr_l0": np.zeros((5, 8), np.float32),
    "head.weight": np.zeros((CLASSES, 5), np.float32),
}
REFUSED = {
    "with projections": (
        PROJECTED,
        r"rnn\.weight_hh_l0 is \(32, 5\).*unexpected: rnn\.weight_hr_l0.*loaded.*projections",
    ),
    "without biases": (
        without(state_dict("lstm", "lstm", 1), "rnn.bias"),
        r"2 tensors are missing: rnn\.bias_ih_l0, rnn\.bias_hh_l0.*loaded.*bias=False",
    ),
    "of a GRU": (
        state_dict("gru", "gru", 1),
        r"rnn\.weight_ih_l0 is \(24, 6\), lstm needs \(32, 6\)",
    ),
    "of more layers": (
        state_dict("lstm", "lstm", 2),
        r"4 tensors are unexpected: rnn\.bias_hh_l1",
    ),
    "of two directions": (
        state_dict("birnn", "lstm", 1),
        r"4 tensors are unexpected: rnn\.bias_hh_l0_reverse",
    ),
}


@pytest.mark.parametrize(("arrays", "complaint"), REFUSED.values(), ids=REFUSED)
def test_weights_of_another_recurrence_are_refused_and_nothing_is_loaded(
    arrays: Mapping[str, ndarray], complaint: str
) -> None:
    model = build("lstm", "lstm", 1)
    before = values(model)
    with pytest.raises(zoo.WeightsMismatch, match=f"(?s)(?=.*Nothing was loaded).*{complaint}"):
        zoo.weights.from_torch(model, arrays)
    for path, x in values(model).items():
        np.testing.assert_array_equal(x, before[path], err_msg=path)


def reset_before() -> keras.Model:
    tokens = Input((None,), dtype="int32")
    x = layers.embedding(tokens, VOCABULARY, CHANNELS, name="embedding")
    _, last = layers.gru(x, UNITS, reset_after=False, name="layer1_forward")
    model = Model(tokens, layers.dense(last, CLASSES, name="head"))
    model.name = "gru"
    return model


def test_a_gru_that_resets_before_is_not_written_by_torchs_names(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(zoo.WrongConfiguration, match=r"layer1_forward.*reset_after=True"):
        zoo.weights.save(reset_before(), file, layout="torch")
    assert not file.exists()


@pytest.mark.parametrize("biases", ["paired", "single"])
def test_a_gru_that_resets_before_takes_none_of_torchs_weights(biases: str) -> None:
    """Not even without the bias that it has no place for: the rest fits by shape, and means another thing."""
    arrays, model = state_dict("gru", "gru", 1), reset_before()
    before = values(model)
    given = arrays if biases == "paired" else without(arrays, "bias_hh")
    with pytest.raises(zoo.WrongConfiguration, match=r"layer1_forward.*reset_after=True"):
        zoo.weights.from_torch(model, given, layout="torch")
    with pytest.raises(zoo.WeightsMismatch, match="Nothing was loaded"):
        zoo.weights.from_torch(model, given)
    for path, x in values(model).items():
        np.testing.assert_array_equal(x, before[path], err_msg=path)


def test_zeros_in_the_place_of_biases_are_none() -> None:
    """What the error advises."""
    arrays, model, tokens = state_dict("lstm", "lstm", 1), build("lstm", "lstm", 1), padded()
    zeros = {key: np.zeros_like(x) if key.startswith("rnn.bias") else x for key, x in arrays.items()}
    zoo.weights.from_torch(model, zeros)
    assert off(numpy(model(tokens)), logits(tokens, zeros, 1)) <= BOUND


# --- torch's own modules ---


def torchs(name: str, cell: str, depth: int) -> Any:
    """A module as its users write it, its weights torch's own random ones."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    directions = 2 if name == "birnn" else 1
    recurrence = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell]
    return torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(VOCABULARY, CHANNELS),
            "rnn": recurrence(
                CHANNELS, UNITS, num_layers=depth, batch_first=True, bidirectional=directions == 2
            ),
            "head": torch.nn.Linear(directions * UNITS, CLASSES),
        }
    )


def packed_logits(module: Any, tokens: ndarray) -> ndarray:
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            module["embedding"](torch.tensor(tokens)), list(LENGTHS), batch_first=True, enforce_sorted=False
        )
        _, states = module["rnn"](packed)
        h = states[0] if isinstance(states, tuple) else states  # (layers * directions, b, u)
        ends = h[-2:] if module["rnn"].bidirectional else h[-1:]
        return module["head"](torch.cat(list(ends), dim=-1)).numpy()


@every_case
def test_a_torch_modules_weights_give_the_logits_of_its_packed_texts(
    name: str, cell: str, depth: int
) -> None:
    module, model, tokens = torchs(name, cell, depth), build(name, cell, depth), padded()
    zoo.weights.from_torch(model, module.state_dict())
    assert off(numpy(model(tokens)), packed_logits(module, tokens)) <= BOUND


@every_case
def test_torch_loads_our_weights_strictly_and_computes_our_logits(name: str, cell: str, depth: int) -> None:
    module, model, tokens = torchs(name, cell, depth), build(name, cell, depth, seed=1), padded()
    module.load_state_dict(zoo.weights.to_torch(model, "torch"), strict=True)
    assert off(numpy(model(tokens)), packed_logits(module, tokens)) <= BOUND


@pytest.mark.parametrize("options", [{"proj_size": 5}, {"bias": False}], ids=["projections", "no biases"])
def test_torch_names_its_other_recurrences_as_those_refused_here(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.LSTM(CHANNELS, UNITS, **options).state_dict()
    ours = PROJECTED if "proj_size" in options else REFUSED["without biases"][0]
    assert {f"rnn.{key}": tuple(x.shape) for key, x in theirs.items()} == {
        key: x.shape for key, x in ours.items() if key.startswith("rnn.")
    }
