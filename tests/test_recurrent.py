"""Recurrent networks: ours against their equations in float64, torch.nn, and themselves unpadded."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from conftest import numpy
from numpy import ndarray
from scipy.special import expit, log_softmax, softmax

import zoo
from zoo import backends, layers, optimizers, random, tasks
from zoo._lazy import keras, ops
from zoo.layers import Input, Model, signature
from zoo.training import checks, metrics, objectives, plan

Tensor = Any
BOUND = 2e-6  # float32, of the largest value, after a dozen steps
LENGTHS = (7, 3, 1, 0, 5)
MODELS = ("lstm", "gru", "birnn", "seq2seq", "speech")


def noise(*shape: int, seed: int = 0) -> ndarray:
    return random.generator("test", seed, *shape).standard_normal(shape, dtype=np.float32)


def off(ours: Any, theirs: Any) -> float:
    ours = numpy(ours)
    assert ours.shape == np.shape(theirs)
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


# --- the equations ---


def lstm(x: ndarray, h: ndarray, c: ndarray, w: dict[str, ndarray]) -> tuple[ndarray, ndarray, ndarray]:
    """Of one sequence (n, c)."""
    found = []
    for row in x.astype(np.float64):
        gates = row @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"] + w["recurrent_bias"]
        i, f, g, o = np.split(gates, 4)
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        found.append(h)
    return np.array(found).reshape(len(x), len(h)), h, c


def gru(x: ndarray, h: ndarray, c: None, w: dict[str, ndarray]) -> tuple[ndarray, ndarray, None]:
    del c
    found, after = [], "recurrent_bias" in w
    for row in x.astype(np.float64):
        r_, z_, n_ = np.split(row @ w["kernel"] + w["bias"], 3)
        ur, uz, un = np.split(w["recurrent_kernel"], 3, axis=1)
        br, bz, bn = np.split(w["recurrent_bias"], 3) if after else np.zeros((3, len(h)))
        r, z = expit(r_ + h @ ur + br), expit(z_ + h @ uz + bz)
        n = np.tanh(n_ + (r * (h @ un + bn) if after else (r * h) @ un))
        h = (1 - z) * n + z * h
        found.append(h)
    return np.array(found).reshape(len(x), len(h)), h, None


CELLS: dict[str, tuple[Callable[..., Any], Callable[..., Any], int]] = {
    "lstm": (layers.lstm, lstm, 2),
    "gru": (layers.gru, gru, 1),
    "gru reset before": (lambda *a, **k: layers.gru(*a, reset_after=False, **k), gru, 1),
}


def cell(kind: str, *, padded: bool, reverse: bool, states: bool) -> tuple[keras.Model, list[ndarray]]:
    """A recurrence as a model, its weights moved off their initial values, and inputs for it."""
    make, _, count = CELLS[kind]
    inputs = {"x": Input((None, 3), name="x")}
    data: list[ndarray] = [noise(5, 7, 3)]
    options: dict[str, Any] = {}
    if padded:
        inputs["lengths"] = options["lengths"] = Input((), dtype="int32", name="lengths")
        data.append(np.array(LENGTHS, np.int32))
    if states:
        first = [Input((4,), name=name) for name in "hc"[:count]]
        inputs |= dict(zip("hc", first, strict=False))
        data += [noise(5, 4, seed=i + 1) for i in range(count)]
        options |= {"states": first} if count == 2 else {"state": first[0]}
    model = Model(inputs, make(inputs["x"], 4, reverse=reverse, name="cell", **options))
    for i, variable in enumerate(model.variables):
        variable.assign(variable + 0.3 * noise(*variable.shape, seed=10 + i))
    return model, data


@pytest.mark.parametrize("states", [False, True], ids=["from zero", "from states"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("kind", CELLS)
def test_a_recurrence_is_its_equations(kind: str, padded: bool, reverse: bool, states: bool) -> None:
    """Each sequence up to its length, in reverse from its end; zeros behind; an empty one keeps its state."""
    model, data = cell(kind, padded=padded, reverse=reverse, states=states)
    w = {v.name: numpy(v).astype(np.float64) for v in model.variables}
    x, rest = data[0], data[1:]
    lengths = rest.pop(0) if padded else np.full(5, 7)
    first = [*rest, *([np.zeros((5, 4))] * (2 - len(rest)))]
    outputs, *last = model(dict(zip([t.name for t in model.inputs], ordered(model, data), strict=True)))
    theirs, ends = np.zeros((5, 7, 4)), [np.zeros((5, 4)) for _ in last]
    for b, n in enumerate(lengths):
        own = x[b, :n][::-1] if reverse else x[b, :n]
        found, *states_ = CELLS[kind][1](own, first[0][b].astype(np.float64), first[1][b], w)
        theirs[b, :n] = found[::-1] if reverse else found
        for end, state in zip(ends, states_, strict=False):
            end[b] = state
    assert off(outputs, theirs) <= BOUND
    for ours, end in zip(last, ends, strict=True):
        assert off(ours, end) <= BOUND
    for b, n in enumerate(lengths):
        assert not numpy(outputs)[b, n:].any()


def ordered(model: keras.Model, data: list[ndarray]) -> list[ndarray]:
    """In the order of the model's inputs, which is that of their names."""
    names = [*"x", *(["lengths"] if any(t.name == "lengths" for t in model.inputs) else []), *"hc"]
    by_name = dict(zip(names, data, strict=False))
    return [by_name[tensor.name] for tensor in model.inputs]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_packed_torch_module_gives_the_same_outputs_and_gradients(kind: str) -> None:
    torch = pytest.importorskip("torch")
    model, (x, lengths) = cell(kind, padded=True, reverse=False, states=False)
    lengths = np.maximum(lengths, 1)  # torch packs no empty sequence
    weight = noise(5, 7, 4, seed=9)
    here = backends.current()

    def objective(_: Tensor, y: Tensor) -> Tensor:
        return ops.sum(y[0] * here.tensor(weight))

    loss, gradients, _ = here.gradients(model, objective)(
        {"x": here.tensor(x), "lengths": here.tensor(lengths)}, here.tensor(np.zeros(1, np.float32))
    )
    module = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](3, 4, batch_first=True)
    names = dict(
        zip(("kernel", "recurrent_kernel", "bias", "recurrent_bias"), module._all_weights[0], strict=True)
    )
    for v in model.variables:
        getattr(module, names[v.name]).data = torch.tensor(numpy(v).T.copy())
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.tensor(x), torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(module(packed)[0], batch_first=True)
    theirs = (outputs * torch.tensor(weight)).sum()
    theirs.backward()
    assert off(loss, theirs.item()) <= BOUND
    for v, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert off(gradient, getattr(module, names[v.name]).grad.numpy().T) <= 1e-5


def test_a_decoder_looks_at_what_was_read_and_at_no_padding() -> None:
    """Bahdanau et al. 2014, eq. 4 to 6, written out."""
    x, memory, h, c = noise(2, 3, 4), noise(2, 5, 6, seed=1), noise(2, 8, seed=2), noise(2, 8, seed=3)
    lengths = np.array([5, 2], np.int32)
    inputs = [
        Input((None, 4), name="a"), Input((None, 6), name="b"), Input((), dtype="int32", name="c"),
        Input((8,), name="d"), Input((8,), name="e"),
    ]  # fmt: skip
    y = layers.attention_decoder(
        inputs[0], 8, encoder_output=inputs[1], lengths=inputs[2], states=inputs[3:], name="decoder"
    )
    model = Model(inputs, y)
    w = {v.name: numpy(v).astype(np.float64) for v in model.variables}
    theirs = np.zeros((2, 3, 14))
    for b in range(2):
        m, state, cell_ = memory[b, : lengths[b]], h[b], c[b]
        for t in range(3):
            scores = np.tanh(state @ w["query_kernel"] + m @ w["memory_kernel"]) @ w["score_kernel"]
            context = softmax(scores[:, 0]) @ m
            gates = np.append(x[b, t], context) @ w["kernel"] + state @ w["recurrent_kernel"] + w["bias"]
            i, f, g, o = np.split(gates, 4)
            cell_ = expit(f) * cell_ + expit(i) * np.tanh(g)
            state = expit(o) * np.tanh(cell_)
            theirs[b, t] = np.append(state, context)
    assert off(model([x, memory, lengths, h, c]), theirs) <= BOUND


# --- initial weights ---


def test_a_recurrent_kernel_is_orthogonal_gate_by_gate() -> None:
    for gate in np.split(random.orthogonal.draw((0, "x"), (16, 64)).astype(np.float64), 4, axis=1):
        assert np.abs(gate.T @ gate - np.eye(16)).max() < 1e-6
    draws = [random.orthogonal.draw((seed, "x"), (1, 4)) for seed in range(200)]
    assert 0.4 < np.mean([np.mean(x > 0) for x in draws]) < 0.6  # of one number: both signs alike


def test_an_lstm_starts_out_remembering() -> None:
    bias = random.forget_one.draw((0, "bias"), (12,))
    assert list(bias) == [0] * 3 + [1] * 3 + [0] * 6
    model = zoo.build("lstm", **zoo.card("lstm").small)
    assert np.array_equal(numpy(model.get_layer("layer1_forward").bias)[8:16], np.ones(8))


# --- whole models ---


def variants() -> list[tuple[str, dict[str, Any]]]:
    plain = [(name, {}) for name in MODELS]
    deep = {"depth": 2, "variational": True, "bidirectional": True, "head": "tagger"}
    return [*plain, ("lstm", {"head": "language_model"}), ("gru", deep)]


@pytest.mark.parametrize(("name", "changes"), variants())
def test_a_padded_sequence_gives_the_numbers_of_the_sequence_alone(
    name: str, changes: dict[str, Any]
) -> None:
    model = zoo.build(name, **{**zoo.card(name).small, **changes})
    x = zoo.example(model, 3, seed=3)
    several = isinstance(x, dict)
    run = backends.current().predictor(model, backends.MODES[backends.current().NAME][0])
    together = numpy(run(backends.tensors(x)))
    for i in (1, 2):
        own = {k: a[i : i + 1] for k, a in x.items()} if several else {"": x[i : i + 1]}
        cut = {
            k: a[:, : int(np.flatnonzero(a.reshape(a.shape[1], -1).any(1))[-1]) + 1] for k, a in own.items()
        }
        alone = numpy(run(backends.tensors(cut if several else cut[""])))
        same = together[i : i + 1][tuple(slice(0, n) for n in alone.shape)]
        assert np.abs(same - alone).max() <= BOUND * np.abs(alone).max()


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_every_mode_predicts_what_the_model_says(name: str) -> None:
    """On torch a GRU predicts by an operation of its own, and trains by torch's."""
    model = zoo.build(name, **zoo.card(name).small, bidirectional=True)
    x = zoo.example(model, 5)
    said = numpy(model(x))
    for mode in backends.MODES[backends.current().NAME]:
        if mode != "compiled":
            predict = backends.current().predictor(model, mode)
            assert off(predict(backends.tensors(x)), said) <= BOUND, mode


def test_a_language_model_does_not_see_the_future() -> None:
    model = zoo.build("lstm", **zoo.card("lstm").small, head="language_model")
    x = zoo.example(model, 1)
    changed = x.copy()
    changed[0, 7] = x[0, 7] % 10 + 1
    before, after = numpy(model(x))[0], numpy(model(changed))[0]
    assert np.array_equal(before[:7], after[:7])
    assert np.abs(before[7:] - after[7:]).max(1).min() > 1e-5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cell": "lstn"}, r"cell='lstn'; nearest: lstm"),
        ({"head": "tager"}, r"head='tager'; nearest: tagger"),
        ({"head": "language_model", "bidirectional": True}, "expected bidirectional=False"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=said):
        zoo.build("lstm", **changes)


def test_a_variational_mask_is_the_same_at_every_step() -> None:
    inputs = Input((None, 32))
    model = Model(inputs, layers.variational_dropout(inputs, 0.5, name="drop"))
    y = numpy(model(np.ones((4, 9, 32), np.float32), training=True))
    assert (y == y[:, :1]).all()
    assert set(np.unique(y)) == {0, 2}
    assert 0.3 < (y[:, 0] > 0).mean() < 0.7
    assert len({row.tobytes() for row in y[:, 0]}) == 4


def test_ctc_needs_no_lengths_where_the_padding_says_blank() -> None:
    logits, real = noise(3, 9, 5), np.array([9, 6, 4], np.int32)
    inputs = [Input((None, 5), name="a"), Input((), dtype="int32", name="b")]
    padded = Model(inputs, layers.blank_padding(*inputs))([logits, real])
    labels = np.array([[1, 2, 2], [3, 0, 0], [4, 1, 0]], np.int32)
    loss = backends.current().ctc_loss
    tensor = backends.current().tensor
    alone = [loss(tensor(labels[i : i + 1]), tensor(logits[i : i + 1, :n])) for i, n in enumerate(real)]
    assert off(loss(tensor(labels), padded), np.mean([numpy(x) for x in alone])) <= 1e-6


# --- labels of every step ---


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("engine", ["native", "keras"])
def test_steps_labelled_minus_one_do_not_count(engine: str, smoothing: float) -> None:
    logits, labels = noise(3, 4, 6), np.array([[1, 5, -1, -1], [0, 2, 3, 4], [-1, -1, -1, 2]], np.int32)
    targets = np.eye(6)[labels] * (1 - smoothing) + smoothing / 6
    theirs = -(targets * log_softmax(logits.astype(np.float64), -1)).sum(-1)[labels >= 0].mean()
    objective = objectives.Objective("cross_entropy", smoothing)
    loss = objective.native() if engine == "native" else objective.keras()
    y = labels.astype(np.float32) if engine == "keras" else labels  # as Keras hands them on
    assert off(loss(ops.convert_to_tensor(y), ops.convert_to_tensor(logits)), theirs) <= 1e-6


def test_accuracy_and_exact_match_count_what_is_labelled() -> None:
    best = np.array([[1, 2, 3], [1, 0, 2], [3, 3, 3]])
    labels = np.array([[1, 2, -1], [1, 1, 2], [3, -1, -1]])
    logits = np.eye(4)[best]
    assert metrics.accuracy(labels, logits) == (5, 6)
    assert metrics.exact_match(labels, logits) == (2, 3)


# --- training ---


def sentences() -> tuple[tasks.sequences.Sequences, ndarray]:
    rng = random.generator("sentences")
    texts = ["".join(rng.choice(list("abcdef"), rng.integers(5, 9))) for _ in range(60)]
    labels = np.array([text.count("a") > text.count("b") for text in texts], np.int32)
    return tasks.sequences.Sequences(texts, tasks.sequences.encode), labels


@cache
def losses(engine: str, mode: str | None = None, **optimizer: Any) -> list[float]:
    model = zoo.build("birnn", width=8, embedding_width=6, dropout_rate=0.2, classes=2, seed=1)
    chosen = optimizers.AdamW(0.01, **optimizer)
    run = zoo.train(
        model,
        sentences(),
        engine=engine,
        mode=mode,
        optimizer=chosen,
        steps=12,
        batch_size=16,
        progress=False,
    )
    return run.losses


def test_both_engines_and_every_mode_train_alike() -> None:
    native = losses("native")
    others = [m for m in backends.MODES[backends.current().NAME][1:] if m != "compiled"]
    for engine, mode in [("keras", None), *(("native", mode) for mode in others)]:
        assert np.abs(np.subtract(losses(engine, mode), native)).max() <= 1e-5, (engine, mode)


def test_fit_takes_batches_of_every_length() -> None:
    """Two short ones come first: from them TensorFlow's `fit` would conclude that all are as short."""
    texts = ["abc"] * 4 + ["abcdefghi"] * 4 + ["ab" * 8] * 4
    data = tasks.sequences.Sequences(texts, tasks.sequences.encode), np.arange(12, dtype=np.int32) % 2
    found = []
    for engine in ("native", "keras"):
        model = zoo.build("lstm", **{**zoo.card("lstm").small, "vocabulary": 259, "classes": 2})
        run = zoo.train(model, data, engine=engine, steps=8, batch_size=2, progress=False)
        found.append(run.losses)
        lengths = {x.shape[1] for x, _ in run.task.batches(2, 0, 0)}
        assert len(lengths) == 3
    assert np.abs(np.subtract(*found)).max() <= 1e-5


def test_a_row_read_twice_is_one_row_when_gradients_are_clipped() -> None:
    """TensorFlow lists the rows that were read; Keras would take the norm of the list."""
    clip = {"global_clipnorm": 0.05}
    clipped = losses("native", **clip)
    assert np.abs(np.subtract(losses("keras", **clip), clipped)).max() <= 1e-5
    assert np.abs(np.subtract(losses("native"), clipped)).max() > 1e-4


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "model"),
    [("languages", "lstm"), ("dates", "seq2seq"), ("spoken-digits", "speech"), ("topics", "gru")],
)
def test_a_batch_of_a_task_fits_its_model_which_has_learnt_nothing_yet(name: str, model: str) -> None:
    """The loss of guessing: ln of the classes; of CTC, for each letter and frame something near it."""
    if name in ("languages", "dates"):
        pytest.importorskip("babel")
    built = zoo.build(model, **plan.task_arguments(zoo.card(model), name))
    task = tasks.load(name, signature.input_shapes(built))
    checks.check_fit(built, task)
    x, y = next(task.batches(8, 0, 0))
    logits = built(backends.tensors(x))
    loss = float(numpy(objectives.Objective(task.loss).native()(backends.tensors(y), logits)))
    classes = logits.shape[-1]
    if task.loss == "ctc":
        assert (y > 0).sum(1).mean() < loss < logits.shape[1] * np.log(classes)
    else:
        assert loss == pytest.approx(np.log(classes), rel=0.1)
    _, of = metrics.METRICS[str(task.metric)](y, numpy(logits))
    assert (
        of
        == {"accuracy": (y >= 0).sum(), "exact_match": 8, "character_error_rate": (y > 0).sum()}[task.metric]
    )
