"""Training with the same bits on every framework: a model's graph, its optimizer and its step.

`Network` runs a functional model node by node. Layers that use the contract's operations run as they are;
those of Keras, and the few of the zoo that add or multiply on their own, are looked up in `RULES`; a tensor
with several readers is forked. Whatever is in neither is refused before training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from zoo.backends import MASK_VALUE, Loss, LossScaling, Optimizer, allowed, exact
from zoo.backends.exact_numbers import constant, divide, keras_ops, narrow, sqrt, total, wide
from zoo.backends.world import WHOLE, Part, get_world, sharding

from zoo.errors import WrongConfiguration

if TYPE_CHECKING:
    import keras

Tensor = Any


# A model


# Of the zoo: what rounds numbers does so by the contract
LAYERS = {
    "Dense", "Conv", "BatchNorm", "LayerNorm", "RMSNorm", "MaxPool", "AveragePool", "Gelu", "Add",
    "Parameter", "Lengths", "ZeroPadding", "BlankPadding", "LSTM", "GRU",
}  # fmt: skip
# Of Keras: they round nothing
STRUCTURAL = {
    "Flatten", "Reshape", "Identity", "InputLayer", "Concatenate", "Transpose", "GetItem", "ExpandDims",
    "Squeeze", "Swapaxes", "Pad", "NotEqual", "Equal",
}  # fmt: skip


def _mean(op: Any, x: Tensor) -> Tensor:
    axes = range(len(x.shape)) if op.axis is None else np.atleast_1d(op.axis).tolist()
    return exact.mean(x, list(axes), keepdims=op.keepdims)


def _dropout(layer: Any, x: Tensor, training: bool = False) -> Tensor:
    if not (training and layer.trainable and layer.rate):
        return x
    from zoo import random

    keep = random.keep(layer.mask_shape(tuple(x.shape)), layer.rate, layer.key, layer.step.value)
    layer.step.assign_add(1)
    return exact.drop(x, keep, layer.scale)


def _embedding(layer: Any, x: Tensor, reverse: bool = False, bias: Tensor | None = None) -> Tensor:
    table = keras_ops().convert_to_tensor(layer.table)
    return exact.dense(x, table, bias, transposed=True) if reverse else exact.embed(table, x, batch=True)


def _positions(layer: Any, x: Tensor) -> Tensor:
    return exact.add(x, keras_ops().convert_to_tensor(layer.table)[: x.shape[1]])


def _segments(layer: Any, x: Tensor, segment_ids: Tensor | None = None) -> Tensor:
    table = keras_ops().convert_to_tensor(layer.table)
    return exact.add(x, table[0] if segment_ids is None else exact.embed(table, segment_ids, batch=True))


def _attention(
    layer: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding_mask: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
) -> Tensor:
    if bias is not None:  # of each example: the layer adds the mask, whose gradient no framework may sum
        bias = exact.add(bias, keras_ops().zeros((query.shape[0], 1, 1, 1), "float32"))
    return layer(query, key, value, padding_mask=padding_mask, bias=bias, training=training)


def _relative_positions(layer: Any, x: Tensor) -> Tensor:
    bias = exact.embed(keras_ops().convert_to_tensor(layer.table), layer.buckets_of(x), batch=False)
    return keras_ops().transpose(bias, (0, 3, 1, 2))


def _adaptive_average_pool(layer: Any, x: Tensor) -> Tensor:
    ops = keras_ops()
    rows, columns = (ops.convert_to_tensor(layer.means(n).T, "float32") for n in x.shape[1:3])
    x = exact.dense(ops.transpose(x, (0, 3, 1, 2)), columns, None)  # (b, c, h, size)
    x = exact.dense(ops.swapaxes(x, 2, 3), rows, None)  # (b, c, size, size), transposed
    return ops.transpose(x, (0, 3, 2, 1))


def _sum(op: Any, x: Tensor) -> Tensor:
    axes = range(len(x.shape)) if op.axis is None else np.atleast_1d(op.axis).tolist()
    return exact.add_up(x, list(axes), keepdims=op.keepdims)


def _take(op: Any, x: Tensor, indices: Any) -> Tensor:
    ops, axis = keras_ops(), op.axis % len(x.shape)
    first = ops.moveaxis(x, axis, 0)
    matrix, indices = ops.reshape(first, (first.shape[0], -1)), ops.convert_to_tensor(indices, "int32")
    rows = exact.embed(matrix, indices, batch=False)
    return ops.moveaxis(ops.reshape(rows, (-1, *first.shape[1:])), 0, axis)


def _floor_divide(op: Any, x: Tensor, y: Any) -> Tensor:
    if "float" in str(x.dtype):
        raise WrongConfiguration("exact: floor_divide is offered for integers, as lengths are")
    return op(x, y)


def _token(layer: Any, x: Tensor) -> Tensor:
    ops = keras_ops()
    zeros = ops.zeros((x.shape[0], 1, x.shape[-1]), "float32")
    return ops.concatenate([exact.add(zeros, ops.convert_to_tensor(layer.value)), x], axis=1)


def _attention_decoder(
    layer: Any, x: Tensor, encoder_output: Tensor, lengths: Tensor, h: Tensor, c: Tensor
) -> Tensor:
    """The loop of the layer step by step, each with its own forks of what all of them read."""
    ops, steps, width = keras_ops(), x.shape[1], x.shape[-1]
    kernel = ops.convert_to_tensor(layer.kernel)
    outputs, values = exact.fork(encoder_output, 2)
    real = ops.less(np.arange(encoder_output.shape[1], dtype=np.int32), ops.expand_dims(lengths, 1))
    zero = ops.zeros((), "float32")
    mask = ops.where(real, zero, MASK_VALUE * ops.ones((), "float32"))
    values = ops.where(ops.expand_dims(real, -1), values, zero)
    keys = exact.dense(outputs, ops.convert_to_tensor(layer.memory_kernel), None)
    inputs = exact.dense(x, kernel[:width], ops.convert_to_tensor(layer.bias))
    weights = (layer.query_kernel, layer.score_kernel, layer.recurrent_kernel)
    read = (keys, values, kernel[width:], *map(ops.convert_to_tensor, weights))
    found = []
    for i, own in enumerate(zip(*(exact.fork(each, steps) for each in read), strict=True)):
        keys, values, lower, query_kernel, score_kernel, recurrent_kernel = own
        before, asked = exact.fork(h, 2)
        query = ops.expand_dims(exact.dense(asked, query_kernel, None), 1)  # (b, 1, u)
        scores = exact.dense(exact.tanh(exact.add(query, keys)), score_kernel, None)[..., 0]
        attended = ops.expand_dims(exact.softmax(exact.add(scores, mask)), 1)
        context, seen = exact.fork(exact.matmul(attended, values)[:, 0], 2)
        gates = exact.add(inputs[:, i], exact.dense(seen, lower, None))
        h, c = exact.lstm_cell(exact.add(gates, exact.dense(before, recurrent_kernel, None)), c)
        shown, h = exact.fork(h, 2)
        found.append(ops.concatenate([shown, context], -1))
    return ops.stack(found, 1)


RULES: dict[str, Callable[..., Tensor]] = {
    # zoo.layers
    "Dropout": _dropout,
    "DropPath": _dropout,
    "VariationalDropout": _dropout,
    "Embedding": _embedding,
    "Positions": _positions,
    "Segments": _segments,
    "Token": _token,
    "RelativePositions": _relative_positions,
    "Attention": _attention,
    "AttentionDecoder": _attention_decoder,
    "AdaptiveAveragePool": _adaptive_average_pool,
    # keras.ops
    "Mean": _mean,
    "Sum": _sum,
    "Square": lambda op, x: exact.square(x),
    "Take": _take,
    "FloorDivide": _floor_divide,
    "Negative": lambda op, x: exact.scaled(x, -1.0),
    "Relu": lambda op, x: exact.relu(x),
    "Sigmoid": lambda op, x: exact.sigmoid(x),
    "Tanh": lambda op, x: exact.tanh(x),
    "Silu": lambda op, x: exact.silu(x),
    "LeakyRelu": lambda op, x: exact.leaky_relu(x, op.negative_slope),
}


def _pair(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A rule of two arguments, either of which may be a number."""

    def rule(op: Any, x: Any, y: Any) -> Tensor:
        if all("int" in str(getattr(v, "dtype", type(v))) for v in (x, y)):
            return op(x, y)  # lengths, say
        x, y = (keras_ops().convert_to_tensor(v, "float32") for v in (x, y))
        return function(x, y)

    return rule


# Keras's sums and products are named as the zoo's layer Add is
ARITHMETIC: dict[str, Callable[..., Tensor]] = {
    "Add": _pair(exact.add),
    "Subtract": _pair(lambda x, y: exact.add(x, -y)),
    "Multiply": _pair(exact.multiply),
}


def rule(operation: Any) -> Callable[..., Tensor] | None:
    """How a node of the graph is computed; None if there is no exact way."""
    name, module = type(operation).__name__, type(operation).__module__
    if module.startswith("keras.src.ops") and name in ARITHMETIC:
        return lambda *args, **kwargs: ARITHMETIC[name](operation, *args, **kwargs)
    if name in RULES and module.startswith(("keras.src.ops", "zoo.layers")):
        return _without_training(name, operation)
    if (name in STRUCTURAL and module.startswith("keras.")) or (name in LAYERS and module.startswith("zoo.")):
        return operation
    return None


def _without_training(name: str, operation: Any) -> Callable[..., Tensor]:
    """The rule of that name; only dropout and attention have to know whether the model is trained."""

    def call(*args: Any, training: bool = False, **kwargs: Any) -> Tensor:
        more = {"training": training} if RULES[name] in (_dropout, _attention) else {}
        return RULES[name](operation, *args, **kwargs, **more)

    return call


class Network:
    """A functional model, computed exactly. Raises WrongConfiguration, naming them, for layers that have no
    exact form."""

    def __init__(self, model: keras.Model):
        self.model: Any = model
        if not hasattr(model, "_nodes_by_depth"):
            raise WrongConfiguration(
                f"exact: {model.name} is not a functional model; build it from zoo.layers"
            )
        depths = sorted(self.model._nodes_by_depth, reverse=True)
        nodes = [node for depth in depths for node in self.model._nodes_by_depth[depth]]
        self.nodes = [node for node in nodes if node.operation and not node.is_input]
        unknown = sorted({type(n.operation).__name__ for n in self.nodes if rule(n.operation) is None})
        if unknown:
            raise WrongConfiguration(
                f"exact: {model.name} has layers without an exact form: {', '.join(unknown)}; leave exact out"
            )
        if regularized := [v.path for v in model.variables if getattr(v, "regularizer", None) is not None]:
            raise WrongConfiguration(f"exact: regularizers are not offered, and {regularized[0]} has one")
        self.calls = Counter(id(node.operation) for node in self.nodes)
        self.readers = Counter(id(x) for node in self.nodes for x in node.input_tensors)
        self.readers.update(id(x) for x in self.model.outputs)

    def __call__(self, x: Any, *, training: bool) -> Tensor:
        import keras

        inputs = self.model.complete(x) if hasattr(self.model, "complete") else x
        if isinstance(inputs, Mapping):
            pairs = [(symbol, inputs[name]) for name, symbol in self.model._inputs_struct.items()]
        else:
            pairs = [(self.model.inputs[0], inputs)]
        values = {id(symbol): None if x is None else exact.fence(x) for symbol, x in pairs}
        left = {key: self._forked(key, value) for key, value in values.items()}
        weights: dict[int, list[Tensor]] = {}
        for node in self.nodes:
            now = {id(t): left[id(t)].pop() for t in node.input_tensors if id(t) in left and left[id(t)]}
            args, kwargs = node.arguments.fill_in(now)
            operation = node.operation
            if "training" in getattr(operation, "_call_context_args", {}):
                kwargs["training"] = training
            call: Any = rule(operation)
            if self.calls[id(operation)] > 1:
                call = self._shared(operation, call, weights)
            outputs = keras.tree.flatten(call(*args, **kwargs))
            for symbol, value in zip(node.outputs, outputs, strict=True):
                left[id(symbol)] = self._forked(id(symbol), value)
        return left[id(self.model.outputs[0])].pop()

    def _shared(
        self, layer: Any, call: Callable[..., Any], weights: dict[int, list[Tensor]]
    ) -> Callable[..., Any]:
        """A call of a layer that is called several times, by its own forks of the layer's weights."""
        import keras

        count = self.calls[id(layer)]
        trained = list(getattr(layer, "trainable_variables", ()))
        if not trained:
            return call
        if len(trained) < len(layer.variables):
            raise WrongConfiguration(
                f"exact: {layer.name} is called {count} times, and has state beside weights"
            )
        for v in trained:
            if id(v) not in weights:
                weights[id(v)] = list(exact.fork(keras_ops().convert_to_tensor(v.value), count))

        def shared(*args: Any, **kwargs: Any) -> Any:
            own = [(v, weights[id(v)].pop()) for v in trained]
            with keras.StatelessScope(state_mapping=own):
                return call(*args, **kwargs)

        return shared

    def _forked(self, key: int, value: Tensor) -> list[Tensor]:
        """The value for each of its readers."""
        count = self.readers[key]
        if value is None or count < 2 or "float" not in str(value.dtype):
            return [value] * max(count, 1)
        return list(exact.fork(value, count))


def predictor(model: keras.Model, mode: str) -> Callable[[Tensor], Tensor]:
    """`Backend.predictor`."""
    network = Network(model)
    variables = [*model.trainable_variables, *model.non_trainable_variables]

    def forward(values: list[Tensor], x: Tensor) -> Tensor:
        import keras

        pairs = list(zip(variables, map(exact.fence, values), strict=True))
        with exact.active(), keras.StatelessScope(state_mapping=pairs):
            return network(x, training=False)

    run = exact.program(forward, mode)
    return lambda x: run(_values(variables), x)


def _values(variables: Sequence[keras.Variable]) -> list[Tensor]:
    return [keras_ops().stop_gradient(keras_ops().convert_to_tensor(v.value)) for v in variables]


# An optimizer


class Updater:
    """`Backend.updater`: the formulas of `zoo.optimizers`, every step of them fenced.

    What depends on the step alone is computed on the host, in float64 or by `decimal`, and passed to the
    program as float32: `numbers`. The state is the tensors of `slots`, by kind.
    """

    def __init__(self, spec: Optimizer, variables: Sequence[keras.Variable]):
        self.spec: Any = spec
        self.kind = type(spec).__name__
        if self.kind not in UPDATES:
            raise WrongConfiguration(
                f"exact: the optimizer {self.kind} is not offered; {', '.join(UPDATES)} are"
            )
        if spec.loss_scale_factor is not None:
            raise WrongConfiguration("exact: loss_scale_factor is not offered; leave it out")
        self.variables = list(variables)
        self.groups = [spec.group(v) for v in variables]
        self.batches = self.weight_sum = 0
        kinds = [*spec.SLOTS, *(["average"] if spec.use_ema else [])]
        kinds += ["gradients"] if spec.gradient_accumulation_steps else []
        zeros = [np.zeros(tuple(v.shape), np.float32) for v in variables]
        self.slots = {kind: [exact.tensor(zero) for zero in zeros] for kind in kinds}

    @property
    def every(self) -> int:
        """The batches of an update."""
        return self.spec.gradient_accumulation_steps or 1

    def numbers(self, weight: int | None) -> tuple[np.ndarray, bool]:
        """`NUMBERS` of the next batch with a rate for each variable, and whether it updates."""
        spec, updates = self.spec, self.batches // self.every
        weight = 1 if weight is None else weight
        share = weight / (self.weight_sum + weight) if self.weight_sum + weight else 1.0
        first = spec.momentum_at(updates) if spec.CYCLED else 0.0
        corrected = getattr(spec, "bias_correction", False)
        one, two = (
            _correction(b, updates + 1) if corrected else 1.0 for b in (first, getattr(spec, "beta_2", 0))
        )
        kept = spec.ema_momentum if updates else 0.0
        rate = spec.rate_at(updates)
        found = [first, 1 - first, 1 / one, 1 / two**0.5, 1 - share, share, kept, 1 - kept]
        rates = [rate * multiplier for multiplier, _ in self.groups]
        return np.array(found + rates, np.float32), (self.batches + 1) % self.every == 0

    def advance(self, weight: int | None, *, due: bool) -> None:
        """Count a batch."""
        self.batches += 1
        self.weight_sum = 0 if due else self.weight_sum + (1 if weight is None else weight)

    def pure(
        self, gradients: list, weights: list, slots: dict[str, list], numbers: Tensor, *, due: bool
    ) -> tuple[list, dict[str, list]]:
        """(gradients, weights, state) -> (weights, state)."""
        n = {name: wide(numbers[i]) for i, name in enumerate(NUMBERS)}
        rates = [wide(numbers[len(NUMBERS) + i]) for i in range(len(weights))]
        slots = dict(slots)
        if self.spec.gradient_accumulation_steps:
            old = zip(slots["gradients"], gradients, strict=True)
            gradients = [narrow(wide(m) * n["kept share"] + wide(g) * n["share"]) for m, g in old]
            slots["gradients"] = [keras_ops().zeros_like(g) for g in gradients] if due else gradients
        if not due:
            return weights, slots
        kinds = self.spec.SLOTS
        state = list(zip(*(slots[kind] for kind in kinds), strict=True)) if kinds else [()] * len(weights)
        each = zip(self.clipped(gradients), weights, rates, self.groups, state, strict=True)
        found = [UPDATES[self.kind](self.spec, n, g, w, rate, own[1], s) for g, w, rate, own, s in each]
        weights = [weight for weight, _ in found]
        for i, kind in enumerate(kinds):
            slots[kind] = [new[i] for _, new in found]
        if self.spec.use_ema:
            pairs = zip(slots["average"], weights, strict=True)
            slots["average"] = [
                narrow(wide(a) * n["kept average"] + wide(w) * n["new average"]) for a, w in pairs
            ]
        return weights, slots

    def clipped(self, gradients: list) -> list:
        """The gradients, clipped as the optimizer says."""
        spec, ops = self.spec, keras_ops()
        if limit := spec.clipvalue:
            high = constant(limit) * ops.ones((), "float32")
            low = [ops.where(g > high, high, g) for g in gradients]
            return [ops.where(g < -high, -high, g) for g in low]
        if limit := spec.clipnorm:
            return [self.shrunk([g], _norm(g), limit)[0] for g in gradients]
        if limit := spec.global_clipnorm:
            squares = ops.stack([_square_sum(g) for g in gradients])
            return self.shrunk(gradients, sqrt(narrow(total(squares, [0])[0])), limit)
        return gradients

    def shrunk(self, gradients: list, norm: Tensor, limit: float) -> list:
        """The gradients times limit / max(norm, limit)."""
        ops = keras_ops()
        least = constant(limit) * ops.ones((), "float32")
        factor = wide(divide(least, ops.where(norm <= least, least, norm)))
        return [narrow(wide(g) * factor) for g in gradients]

    def scale(self, loss: Tensor) -> Tensor:
        """`Backend.Updater`."""
        return loss

    def state_dict(self) -> dict[str, np.ndarray]:
        """`Backend.Updater`."""
        found: dict[str, np.ndarray] = {"batches": np.array(self.batches, np.int32)}
        if self.spec.gradient_accumulation_steps:
            found["weight_sum"] = np.array(self.weight_sum, np.int32)
        for kind, tensors in self.slots.items():
            pairs = zip(self.variables, tensors, strict=True)
            found |= {f"{kind}/{v.path}": np.array(keras_ops().convert_to_numpy(x)) for v, x in pairs}
        return found

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """`Backend.Updater`."""
        self.batches, self.weight_sum = int(state["batches"]), int(state.get("weight_sum", 0))
        for kind in self.slots:
            self.slots[kind] = [exact.tensor(np.array(state[f"{kind}/{v.path}"])) for v in self.variables]

    def copy_ema_to_weights(self) -> None:
        """`Backend.Updater`."""
        if self.batches >= self.every:
            for variable, average in zip(self.variables, self.slots.get("average", ()), strict=False):
                variable.assign(average)


NUMBERS = ("first", "1 - first", "one", "two", "kept share", "share", "kept average", "new average")


def _correction(beta: float, t: int) -> float:
    """1 - beta^t, by `decimal`: powers differ between C libraries."""
    context = Context(prec=40)
    return float(context.subtract(Decimal(1), context.power(Decimal(beta), t)))


def _square_sum(x: Tensor) -> Tensor:
    every = list(range(len(x.shape)))
    squares = narrow(wide(x) * wide(x))
    return keras_ops().reshape(narrow(total(squares, every)), ()) if every else squares


def _norm(x: Tensor) -> Tensor:
    return sqrt(_square_sum(x))


def _decayed(x: Tensor, w: Tensor, decay: float) -> Tensor:
    return narrow(wide(x) + wide(w) * constant(decay)) if decay else x


def _descended(w: Tensor, rate: Tensor, update: Tensor) -> Tensor:
    return narrow(wide(w) - rate * wide(update))


def _sgd(spec: Any, n: Any, g: Tensor, w: Tensor, rate: Tensor, decay: float, state: Any) -> tuple:
    del spec, n
    return _descended(w, rate, _decayed(g, w, decay)), state


def _momentum(spec: Any, n: Any, g: Tensor, w: Tensor, rate: Tensor, decay: float, state: Any) -> tuple:
    g = _decayed(g, w, decay)
    v = narrow(n["first"] * wide(state[0]) + wide(g))
    update = narrow(wide(g) + n["first"] * wide(v)) if spec.nesterov else v
    return _descended(w, rate, update), (v,)


def _direction(spec: Any, n: Any, g: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, tuple]:
    """r of `zoo.optimizers`, and the new moments."""
    m, v, *largest = state
    m = narrow(n["first"] * wide(m) + n["1 - first"] * wide(g))
    square = wide(narrow(wide(g) * wide(g)))
    v = narrow(constant(spec.beta_2) * wide(v) + constant(1 - spec.beta_2) * square)
    largest = [keras_ops().where(v > x, v, x) for x in largest]
    root = wide(sqrt(largest[0] if largest else v))
    below = narrow(root * n["two"] + constant(spec.epsilon))
    return divide(narrow(wide(m) * n["one"]), below), (m, v, *largest)


def _adam(spec: Any, n: Any, g: Tensor, w: Tensor, rate: Tensor, decay: float, state: Any) -> tuple:
    r, state = _direction(spec, n, _decayed(g, w, decay), state)
    return _descended(w, rate, r), state


def _adamw(spec: Any, n: Any, g: Tensor, w: Tensor, rate: Tensor, decay: float, state: Any) -> tuple:
    r, state = _direction(spec, n, g, state)
    return _descended(w, rate, _decayed(r, w, decay)), state


def _lamb(spec: Any, n: Any, g: Tensor, w: Tensor, rate: Tensor, decay: float, state: Any) -> tuple:
    r, state = _direction(spec, n, g, state)
    r, ops = _decayed(r, w, decay), keras_ops()
    size, length = _norm(w), _norm(r)
    one = ops.ones((), "float32")
    both = ops.logical_and(size > 0, length > 0)
    ratio = ops.where(both, divide(size, ops.where(both, length, one)), one)
    return _descended(w, wide(narrow(rate * wide(ratio))), r), state


UPDATES: dict[str, Callable[..., tuple]] = {
    "SGD": _sgd,
    "Momentum": _momentum,
    "Adam": _adam,
    "AdamW": _adamw,
    "LAMB": _lamb,
}


# A step


class ExactStep:
    """`Backend.step`: (weights, state, optimizer state, batch) -> the same and the loss, one program."""

    def __init__(
        self, model: keras.Model, loss: Loss, spec: Optimizer, mode: str, scaling: LossScaling | None
    ):
        if scaling is not None or model.dtype_policy.name != "float32":
            raise WrongConfiguration(f"exact: dtype {model.dtype_policy.name} is not offered; float32 is")
        self.mode = allowed(exact.NAME, mode)
        self.trained, self.others = list(model.trainable_variables), list(model.non_trainable_variables)
        self.network, self.loss = Network(model), loss
        self.updater, self.world = Updater(spec, self.trained), get_world()
        self.programs: dict[tuple[bool, Part], Callable[..., tuple]] = {}
        self.state: tuple[list, list] | None = None

    def pure(self, *, due: bool) -> Callable[..., tuple]:
        """The step as a pure function, which updates the weights if `due`."""

        def step(
            weights: list, others: list, slots: dict, numbers: Tensor, flags: Tensor, x: Tensor, y: Tensor
        ) -> tuple:
            with exact.active():
                objective = self.objective(others, x, y)
                value, others, gradients = exact.value_and_gradients(objective, weights)
                weights, slots = self.updater.pure(
                    list(map(exact.fence, gradients)), weights, slots, numbers, due=due
                )
            found = self.world.placed((weights, others, slots, value))
            return *found, keras_ops().sum(self.world.reduce(flags, "sum"))

        return step

    def objective(self, others: list, x: Tensor, y: Tensor) -> Callable[[list], tuple[Tensor, list]]:
        """The loss and the new state as a function of the weights."""
        import keras

        def function(weights: list) -> tuple[Tensor, list]:
            values = [*zip(self.trained, weights, strict=True), *zip(self.others, others, strict=True)]
            with keras.StatelessScope(state_mapping=values) as scope:
                logits = self.network(x, training=True)
            return self.loss(y, logits), [scope.get_current_value(v) for v in self.others]

        return function

    def __call__(self, x: Tensor, y: Tensor, weight: int | None = None, part: Part = WHOLE) -> Tensor:
        if self.state is None:
            own = [list(map(exact.fence, _values(each))) for each in (self.trained, self.others)]
            self.state, self.updater.slots = self.world.put(((own[0], own[1]), self.updater.slots))
        assert self.state is not None
        numbers, due = self.updater.numbers(weight)
        arguments = (*self.state, self.updater.slots, self.world.put(exact.tensor(numbers)))
        part = replace(part, weight=1.0)  # the number of labels of all parts is added instead
        if (due, part) not in self.programs:
            self.programs[due, part] = exact.program(self.pure(due=due), self.mode)
        with sharding(part):  # read while a program is made
            found = self.programs[due, part](*arguments, self.world.flagged(), x, y)
        weights, others, self.updater.slots, loss, flags = found
        self.state = list(weights), list(others)
        if self.world.size > 1:
            self.world.flags.append(flags)
        self.updater.advance(weight, due=due)
        return loss

    def sync(self) -> None:
        """`Backend.Step`."""
        if self.state is None:
            return
        (weights, others), self.updater.slots = self.world.take((self.state, self.updater.slots))
        for variable, value in zip([*self.trained, *self.others], [*weights, *others], strict=True):
            variable.assign(value)
        self.state = None
