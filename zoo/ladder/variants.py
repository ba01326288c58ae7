"""Rungs 9 to 11 in one framework: the same numbers alone, in a batch, padded, accumulated, in 16 bits.

`zoo.ladder.probe` runs these functions, `zoo.ladder.rungs` compares their arrays.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from zoo import backends, random, tasks, training
from zoo._lazy import keras
from zoo.errors import WrongConfiguration
from zoo.ladder import taps
from zoo.ladder.bounds import FORMATS, Format
from zoo.ladder.networks import SEED, Network
from zoo.ladder.rounding import numpy, spreads_of, with_floats
from zoo.layers import signature
from zoo.tasks.sequences import take

Array = np.ndarray
Named = Iterator[tuple[str, Array]]

PADDING = 4  # steps that are added before and behind: speech reads four frames at a time
MICRO_BATCH, EXAMPLES = 3, 10  # four micro-batches, of which the last one is short
RATE = 2.0**20  # of one update, so large that the weights it leaves are the gradient
SCALINGS = 40  # steps in which a loss scale is halved until no gradient overflows
FORMAT_PASSES = 4  # that measure how far a format's rounding moves a result


def inference(model: keras.Model, *, batch_norm: bool = False) -> keras.Model:
    """The model, whose layers stay in inference mode in training; `batch_norm` layers do not.

    Dropout and the statistics of a batch are another for each batch.
    """
    for layer in model._flatten_layers():
        if "training" not in inspect.signature(layer.call).parameters:
            continue
        if batch_norm and ("BatchNorm" in type(layer).__name__ or isinstance(layer, keras.Model)):
            continue

        def call(*args: Any, original: Any = layer.call, **kwargs: Any) -> Any:
            return original(*args, **{**kwargs, "training": False})

        layer.call = call
    return model


def of_any_model(
    number: int, compute: Callable[[Network, dict[str, Any]], Named], network: Network, facts: dict[str, Any]
) -> Named:
    """What `compute` yields; of a user's model nothing, if that fails, and a note in `facts`.

    Not every model takes a batch of one example, or 16 bits.
    """
    try:
        arrays = dict(compute(network, facts))
    except Exception as error:
        refused = number == 0 and isinstance(error, WrongConfiguration)  # no exact form
        if network.recipe is not None and not refused:
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[-1] if lines else ''}"
        facts["left_out"].append(f"rung {number} is not compared: {reason}")
    else:
        yield from arrays.items()


def predictor(model: keras.Model) -> Callable[[Any], list[Array]]:
    """A function of inputs: all float outputs in inference mode, by the framework's default mode."""
    backend = backends.current()
    predict = backend.predictor(model, backends.MODES[backend.NAME][0])
    return lambda x: [numpy(y) for y in keras.tree.flatten(predict(backends.tensors(x))) if taps._real(y)]


def gradients(model: keras.Model, y: Array | None, loss: Any, prefix: str) -> Callable[[Any], Named]:
    """A function of inputs: the gradient of every weight, named "PREFIX/PATH"."""
    backend = backends.current()
    compute = backend.gradients(model, taps._distance if y is None else taps._objective(y, loss))
    labels = backend.tensor(np.zeros(1, np.int32) if y is None else y)

    def named(x: Any) -> Named:
        _, found, _ = compute(backends.tensors(x), labels)
        for variable, gradient in zip(model.trainable_variables, found, strict=True):
            yield f"{prefix}/{variable.path}", numpy(gradient)

    return named


# Rung 9


def batch(network: Network, facts: dict[str, Any]) -> Named:
    """The outputs of a batch, and of its examples alone and with other padding: "batch/alone/0".

    Then outputs and gradients of a batch that is padded in front, if the model takes padding.
    """
    model = inference(network.build())
    x, _ = network.first(8)
    predict = predictor(model)
    together = predict(x)
    alone = [predict(take(x, slice(i, i + 1))) for i in range(len(keras.tree.flatten(x)[0]))]
    for i, y in enumerate(together):
        yield f"batch/together/{i}", y
        yield f"batch/alone/{i}", np.concatenate([own[i] for own in alone])
    if network.recipe is not None and Sequences.in_inputs_of(model):
        yield from Sequences(model, x).variants(predict)
    elif Sequences.in_inputs_of(model):
        facts["left_out"].append("rung 9 compares no padding: what padding is, only models of the zoo state")
    yield from front(network, spread=True)


def front(network: Network, *, spread: bool = False) -> Named:
    """Outputs and gradients of a batch, padded in front if the model takes padding; with their spread."""
    model = inference(network.build())
    x, y = network.first(8)
    if network.recipe is not None and Sequences.in_inputs_of(model):
        sequences = Sequences(model, x)
        x, y = sequences.padded(PADDING, 0), sequences.padded_labels(y, PADDING)
    predict, gradient = predictor(model), gradients(model, y, network.loss, "batch/front/gradients")

    def compute(x: Any) -> Named:
        yield from ((f"batch/front/outputs/{i}", value) for i, value in enumerate(predict(x)))
        yield from gradient(x)

    return spreads_of(model, x, compute) if spread else compute(x)


class Sequences:
    """The inputs of one of the zoo's models of sequences: token 0, and a frame of zeros, is padding."""

    def __init__(self, model: keras.Model, inputs: Any):
        self.model, self.single = model, not isinstance(inputs, Mapping)
        self.arrays: dict[str, Array] = {model.inputs[0].name: inputs} if self.single else dict(inputs)
        self.variable = [t.name for t in model.inputs if None in t.shape[1:]]
        self.masks = [name for name in self.variable if name.endswith("padding_mask")]
        content = [n for n in self.variable if n not in self.masks and n != "segment_ids"]
        self.lengths = {_side(n): _ends(_real(self.arrays[n])) for n in content}  # (b,), by side
        self.read = max(content, key=lambda name: name.startswith("decoder"))  # what outputs are of

    @staticmethod
    def in_inputs_of(model: keras.Model) -> bool:
        """Whether the length of an input varies."""
        return any(None in tensor.shape[1:] for tensor in model.inputs)

    def whole(self, arrays: Mapping[str, Array]) -> Any:
        """As the model takes them."""
        return next(iter(arrays.values())) if self.single else dict(arrays)

    def padded(self, front: int, behind: int, token: int = 0) -> Any:
        """The inputs with so many steps of padding, and, where a mask says so, another token in it."""
        arrays = dict(self.arrays)
        for name in self.variable:
            a = arrays[name]
            arrays[name] = np.pad(a, ((0, 0), (front, behind), *((0, 0) for _ in a.shape[2:])))
        for name in self.masks:
            tokens = name.replace("padding_mask", "token_ids")
            arrays[tokens] = np.where(arrays[name] == 0, token, arrays[tokens])
        return self.whole(arrays)

    def padded_labels(self, y: Array | None, front: int) -> Array | None:
        """The labels of inputs with so many steps of padding in front."""
        steps = self.arrays[self.read].shape[:2]
        if y is None or y.shape != steps or len(self.model.output_shape) < 3:
            return y
        return np.pad(y, ((0, 0), (front, 0)), constant_values=-1)

    def variants(self, predict: Callable[[Any], list[Array]]) -> Named:
        """Outputs of the real steps: with more padding, and of the shortest example without any."""
        together = predict(self.whole(self.arrays))
        row = int(np.argmin(sum(self.lengths.values())))
        cut = {n: a[row : row + 1] for n, a in self.arrays.items()}
        cut |= {n: cut[n][:, : max(1, self.lengths[_side(n)][row])] for n in self.variable}
        replaced = [y.copy() for y in together]
        for y, own in zip(replaced, predict(self.whole(cut)), strict=True):
            y[row, : own.shape[1]] = own[0]
        variants = {
            "real": (together, 0),
            "cut": (replaced, 0),
            "behind": (predict(self.padded(0, PADDING)), 0),
        }
        if self.masks:
            variants["masked"] = predict(self.padded(PADDING, PADDING)), PADDING
            variants["tokens"] = predict(self.padded(PADDING, PADDING, token=1)), PADDING
            if signature.longest(self.model) is None:  # positions are relative
                variants["shifted"] = predict(self.padded(PADDING, 0)), PADDING
        for name, (outputs, front) in variants.items():
            for i, y in enumerate(outputs):
                yield f"batch/{name}/{i}", self.select(y, together[i].shape, front)

    def select(self, y: Array, shape: tuple[int, ...], front: int) -> Array:
        """The outputs of real steps, (steps, ...), behind so many of padding; or of all examples.

        `shape` is that of the outputs without more padding.
        """
        if len(self.model.output_shape) < 3:
            return y
        real = _real(self.arrays[self.read])
        every = real.shape[1] // shape[1]  # speech has one output for four frames
        return y[:, front // every :][:, : shape[1]][real[:, ::every]]


def _real(x: Array) -> Array:
    """(b, n[, c]) -> (b, n): where a sequence is not padding."""
    return np.not_equal(x, 0) if x.ndim < 3 else np.any(x, axis=-1)


def _ends(real: Array) -> Array:
    """(b, n) -> (b,): how many steps there are up to the last real one."""
    return np.asarray(np.max(real * np.arange(1, real.shape[1] + 1), axis=1))


def _side(name: str) -> str:
    return "decoder" if name.startswith("decoder") else "encoder"


# Rung 10


def accumulation(network: Network, facts: dict[str, Any]) -> Named:
    """The gradients of a batch, and those that four micro-batches accumulate: "accumulation/native/PATH".

    Then those of layers whose outputs are computed again in the backward pass, "recomputation/...".
    """
    x, y = network.first(EXAMPLES)
    model = inference(network.build())
    yield from spreads_of(model, x, gradients(model, y, network.loss, "accumulation/whole"))
    for engine in training.ENGINES:
        model = inference(network.build())
        before = [numpy(v) for v in model.trainable_variables]
        _train_one_batch(model, x, y, network.loss, engine)
        for variable, value in zip(model.trainable_variables, before, strict=True):
            yield (
                f"accumulation/{engine}/{variable.path}",
                (value - numpy(variable).astype(np.float64)) / RATE,
            )
    x, y = network.first(8)
    model = network.build()
    names = [layer.name for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]
    yield from gradients(model, y, network.loss, "recomputation/stored")(x)
    try:
        model = recomputing(network, names).build()
        recomputed = dict(gradients(model, y, network.loss, "recomputation/recomputed")(x))
    except Exception as error:
        if network.recipe is not None:
            raise
        facts["left_out"].append(
            f"rung 10 compares no recomputation: keras.RematScope fails with {type(error).__name__}"
        )
    else:
        yield from recomputed.items()


def _train_one_batch(model: keras.Model, x: Any, y: Any, loss: Any, engine: str) -> None:
    """One update by the gradients of micro-batches."""
    from zoo import optimizers

    task = tasks.from_arrays((x, y), loss=loss if isinstance(loss, str) else None)
    steps = -(-len(y) // MICRO_BATCH)
    training.train(
        model,
        task,
        engine=engine,
        steps=steps,
        batch_size=MICRO_BATCH,
        seed=SEED,
        optimizer=optimizers.SGD(RATE, gradient_accumulation_steps=steps),
        loss=loss,
        label_smoothing=0.0 if loss is None and task.loss == "cross_entropy" else None,
        progress=False,
    )


def recomputing(network: Network, names: Sequence[str]) -> Network:
    """The network, whose layers of these names keep no outputs for the backward pass."""
    changed = copy(network)

    def build() -> keras.Model:
        with keras.RematScope(mode="list_of_layers", layer_names=names):
            return network.builder()

    changed.builder = build
    return changed


# Rung 11


def precision(network: Network, facts: dict[str, Any]) -> Named:
    """Outputs and gradients in every number format, as float32: "precision/bfloat16/outputs/0".

    Computed by the native engine's training step, with loss scaling where the policy has it.
    """
    backend = backends.current()
    x, y = network.first(8)
    for form in FORMATS:
        if form.name == "tf32" and not backend.use_tf32(True):
            facts["left_out"].append("rung 11 compares no TF32: the device has none")
            continue
        try:
            model = inference(with_policy(network, form.policy).build(), batch_norm=True)
            for i, value in enumerate(predictor(model)(x)):
                yield f"precision/{form.name}/outputs/{i}", value
            yield from _stepped(model, x, y, network.loss, form)
        finally:
            if form.name == "tf32":
                backend.use_tf32(False)


def _stepped(model: keras.Model, x: Any, y: Array | None, loss: Any, form: Format) -> Named:
    """The gradients, as one update by the native engine has them; steps that overflow make none."""
    from zoo import optimizers

    backend = backends.current()
    objective = taps._distance if y is None else taps._objective(y, loss)
    scaling = backends.LossScaling() if form.scaled else None
    step = backend.step(model, objective, optimizers.SGD(RATE), backends.MODES[backend.NAME][0], scaling)
    labels = backend.tensor(np.zeros(1, np.int32) if y is None else y)
    before = [numpy(v) for v in model.trainable_variables]
    moved = before
    for _ in range(SCALINGS):
        step(backends.tensors(x), labels)
        step.sync()
        moved = [numpy(v) for v in model.trainable_variables]
        if any((a != b).any() for a, b in zip(before, moved, strict=True)):
            break
    for variable, a, b in zip(model.trainable_variables, before, moved, strict=True):
        yield f"precision/{form.name}/gradients/{variable.path}", (a.astype(np.float64) - b) / RATE


def with_policy(network: Network, policy: str) -> Network:
    """The network with another dtype policy of Keras."""
    changed = copy(network)

    def build() -> keras.Model:
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            return network.builder()
        finally:
            keras.config.set_dtype_policy(before)

    changed.builder = build
    return changed


def reference(network: Network) -> Named:
    """Rung 11 in float64: outputs and gradients, and how far each format's rounding moves them.

    That is, in the root mean square of the norms, what they move by if every weight, input and operation's
    output, and every gradient of these, is changed by up to half a unit in the format's last place.
    """
    x, y = network.first(8)
    model = inference(network.build(), batch_norm=True)
    tapped = RoundedTaps(model, x)
    predict = predictor(tapped.whole)
    gradient = gradients(tapped.whole, y, network.loss, "gradients")

    def compute(x: Any) -> dict[str, Array]:
        outputs = {f"outputs/{i}": value for i, value in enumerate(predict(x))}
        return outputs | {name: g for name, g in gradient(x) if not name.startswith(f"gradients/{taps.TAP}")}

    exact = compute(x)
    yield from ((f"precision/exact/{name}", value) for name, value in exact.items())
    variables = tapped.whole.trainable_variables
    weights = [numpy(v) for v in variables]

    def errors(x: Any, changed: Callable[[keras.Variable, Array], Array]) -> dict[str, float]:
        for variable, value in zip(variables, weights, strict=True):
            variable.assign(changed(variable, value))
        return {name: float(np.linalg.norm(value - exact[name])) for name, value in compute(x).items()}

    for bits in dict.fromkeys(form.bits for form in FORMATS):
        squares = dict.fromkeys(exact, 0.0)
        for seed in range(FORMAT_PASSES):

            def noisy(variable: keras.Variable, value: Array, bits: int = bits, seed: int = seed) -> Array:
                noise = half_ulps(value.shape, bits, seed, variable.path)
                return noise if variable.path.startswith(taps.TAP) else value * (1 + noise)

            def noisy_input(name: str, value: Array, bits: int = bits, seed: int = seed) -> Array:
                return value * (1 + half_ulps(value.shape, bits, seed, "inputs", name))

            for name, error in errors(with_floats(x, noisy_input), noisy).items():
                squares[name] += error**2 / FORMAT_PASSES

        def nearest_to(_: Any, value: Array, bits: int = bits) -> Array:
            return round_to(value, bits)

        nearest = errors(with_floats(x, nearest_to), nearest_to)
        least = {name: 2.0**-bits * float(np.linalg.norm(value)) / 2 for name, value in exact.items()}
        expected = {name: max(square**0.5, nearest[name], least[name]) for name, square in squares.items()}
        for name, error in expected.items():
            cancelling = error_of_cancelling(name, expected, exact, bits)
            yield f"precision/{bits} bits/{name}", np.array(max(error, cancelling))


def error_of_cancelling(
    name: str, expected: Mapping[str, float], exact: Mapping[str, Array], bits: int
) -> float:
    """What rounding makes of a gradient whose terms cancel, as of the bias of an attention's keys; else 0.

    A bias sums the terms that a row of its layer's kernel sums times an input, and inside a fused operation
    they are rounded before they cancel: its error is that of a row.
    """
    layer, own = name.rpartition("/")[0], exact[name]
    if not name.startswith("gradients/"):
        return 0.0
    found = 0.0
    for sibling, other in exact.items():
        if sibling.rpartition("/")[0] == layer and other.size >= own.size and sibling != name:
            share = (own.size / other.size) ** 0.5
            if np.linalg.norm(own) < 2.0**-bits * share * np.linalg.norm(other):
                found = max(found, share * expected[sibling])
    return found


def round_to(x: Array, bits: int) -> Array:
    """The nearest numbers with a significand of so many bits; halves to even, no bounds of the exponent."""
    significand, exponent = np.frexp(x)
    return np.ldexp(np.rint(np.ldexp(significand, bits)), exponent - bits)


def half_ulps(shape: tuple[int, ...], bits: int, *key: int | str) -> Array:
    """Relative rounding errors of a format, uniform in +-2^-bits."""
    return random.generator("rounding", *key).uniform(-(2.0**-bits), 2.0**-bits, shape)


class RoundedTaps(taps.Taps):
    """Taps that multiply by one plus their weights, which change outputs and their gradients alike."""

    def _tap(self, label: str, y: Any) -> Any:
        from zoo.layers.classes import RoundedTap

        tap = self.taps[label] = RoundedTap(name=f"{taps.TAP}{len(self.taps)}")
        tap.build(tuple(y.shape))
        return tap
