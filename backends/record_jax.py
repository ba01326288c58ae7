"""Flax modules, and functions of (weights, *inputs): their jaxpr, interpreted operation by operation.

Calls of Flax's layers, and of a few functions of `jax.nn`, are fenced by a `jax.jit` of a name, and recorded
as one operation. A function that JAX cannot trace, as one that uses NumPy, is compared by its outputs alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from zoo.backends.recording import Array, Recorder, View, kind_of, lstm_gates, padding_of

FENCE = "zoo_operation_"
LEAVES = ("Linear", "LinearGeneral", "Dense", "DenseGeneral", "Conv", "Embed")
CELLS = {"LSTMCell", "OptimizedLSTMCell"}
NORMS = ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm")
FUNCTIONS = (
    "gelu",
    "softmax",
    "log_softmax",
    "silu",
    "relu",
    "relu6",
    "elu",
    "leaky_relu",
    "dot_product_attention",
)
ROLES = {"bias": "shift", "var": "variance"}
MOVES = {"reshape", "transpose", "broadcast_in_dim", "squeeze", "slice", "expand_dims", "rev"}
COPIES = {"convert_element_type", "copy", "stop_gradient"}
CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
         "closed_call": "call_jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr"}  # fmt: skip


def load(built: Any, inputs: Any) -> JaxModel:
    """The model of a Flax module, of (Linen module, variables), or of (function, weights)."""
    del inputs
    jax.config.update("jax_enable_x64", True)
    if isinstance(built, tuple):
        function, weights = built
        if hasattr(function, "apply"):
            return JaxModel("Linen module", function.apply, weights, None)
        return JaxModel("function", function, weights, None)
    from flax import nnx

    if isinstance(built, nnx.Module):
        built.eval()
        graph, weights, rest = nnx.split(built, (nnx.Param, nnx.BatchStat), ...)
        pure = nnx.to_pure_dict(weights)
        trained = {_path(path) for path, x in nnx.to_flat_state(weights) if isinstance(x, nnx.Param)}

        def call(given: Any, *args: Any, **kwargs: Any) -> Any:
            state = jax.tree.map(lambda x: x, weights)
            nnx.replace_by_pure_dict(state, given)
            own = jax.tree.map(lambda x: x, rest)  # variables of this trace
            return nnx.merge(graph, state, own)(*args, **kwargs)

        return JaxModel("Flax NNX module", call, pure, trained)
    raise TypeError(f"{type(built).__name__}: a Linen module needs its variables: return (module, variables)")


class JaxModel:
    """See `zoo.backends.recording.Model`. A weight's name is its path: "params/Dense_0/kernel"."""

    trains = False  # an argument of the module's own says it

    def __init__(self, kind: str, function: Callable[..., Any], weights: Any, trained: set[str] | None):
        self.kind, self.function = kind, function
        leaves, self.tree = jax.tree_util.tree_flatten_with_path(weights)
        self.names = [_path(path) for path, _ in leaves]
        self.leaves = [_wide(x) for _, x in leaves]
        own = {n for n in self.names if not n.startswith("batch_stats/")} if trained is None else trained
        self.trained = [i for i, name in enumerate(self.names) if name in own and self.is_float(i)]

    def is_float(self, number: int) -> bool:
        """Whether a leaf has real numbers."""
        return np.asarray(self.leaves[number]).dtype.kind == "f"

    def weights(self) -> dict[str, Array]:
        return {
            n: np.array(x)
            for i, (n, x) in enumerate(zip(self.names, self.leaves, strict=True))
            if self.is_float(i)
        }

    def set_weights(self, weights: Mapping[str, Array]) -> None:
        for name, array in weights.items():
            number = self.names.index(name)
            self.leaves[number] = (
                type(self.leaves[number])(array) if isinstance(array, float) else _wide(array)
            )

    def call(self, leaves: Sequence[Any], inputs: Any) -> list[Any]:
        """The outputs of real numbers."""
        weights = jax.tree_util.tree_unflatten(self.tree, leaves)
        if isinstance(inputs, Mapping):
            result = self.function(weights, **inputs)
        else:
            result = self.function(weights, *inputs)
        return [y for y in jax.tree.leaves(result) if np.dtype(y.dtype).kind == "f"]

    def run(
        self, inputs: Any, replacements: Mapping[str, Array] | None = None
    ) -> tuple[list[Array], Recorder]:
        recorder = Recorder(np.asarray, lambda array, like: jnp.asarray(array, like.dtype), replacements)
        given = jax.tree.map(jnp.asarray, inputs)
        fences: list[dict[str, Any]] = []
        try:
            with fenced(fences):
                closed = jax.make_jaxpr(self.call)(self.leaves, given)
        except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
            return [np.array(y) for y in self.call([np.asarray(x) for x in self.leaves], inputs)], recorder
        interpreter = _Interpreter(recorder, fences)
        flat = jax.tree.leaves(given)
        # Each value is an array of its own: an input that is a weight's array would be taken for it.
        values = [*map(_own, self.leaves), *map(_own, flat)]
        for name, x in zip(self.names, values, strict=False):
            interpreter.views[id(x)] = View.whole(name, x.shape)
        for number, x in enumerate(values[len(self.leaves) :]):
            recorder.input(number, x)
        outputs = interpreter.evaluate(closed.jaxpr, closed.consts, values)
        return [np.array(y) for y in outputs], recorder

    def gradients(
        self, inputs: Any, targets: Sequence[Array], training: bool
    ) -> tuple[float, dict[str, Array]]:
        assert not training

        def loss(trained: list[Any]) -> Any:
            leaves = list(self.leaves)
            for i, x in zip(self.trained, trained, strict=True):
                leaves[i] = x
            pairs = zip(self.call(leaves, inputs), targets, strict=False)
            return sum(jnp.sum(jnp.square(y - jnp.reshape(t, y.shape))) / 2 for y, t in pairs)

        with fenced([]):
            value, found = jax.value_and_grad(loss)([jnp.asarray(self.leaves[i]) for i in self.trained])
        return float(value), {self.names[i]: np.array(g) for i, g in zip(self.trained, found, strict=True)}

    def train(self, inputs: Any) -> dict[str, Array]:
        del inputs
        return {}


@contextmanager
def fenced(fences: list[dict[str, Any]]) -> Iterator[None]:
    """Within, Flax's layers and functions of `jax.nn` are traced as calls with a name: FENCE and a number."""
    try:
        from flax import linen, nnx
    except ImportError:
        linen = nnx = None
    with ExitStack() as stack:
        for name in FUNCTIONS:
            for module in (jax.nn, linen, nnx):
                if module is not None and hasattr(module, name):
                    stack.enter_context(
                        mock.patch.object(module, name, _function(fences, name, getattr(module, name)))
                    )
        if linen is not None and nnx is not None:
            for name in LEAVES + NORMS:
                if (layer := getattr(nnx, name, None)) is not None:
                    stack.enter_context(
                        mock.patch.object(layer, "__call__", _nnx_layer(fences, name, layer.__call__))
                    )
            stack.enter_context(mock.patch.object(nnx.RNN, "__call__", _nnx_rnn(fences, nnx.RNN.__call__)))
            stack.enter_context(linen.intercept_methods(functools.partial(_linen_layer, fences)))
        yield


def _fence(fences: list[dict[str, Any]], facts: dict[str, Any], call: Callable[..., Any], *args: Any) -> Any:
    fences.append(facts)

    def operation(*args: Any) -> Any:
        return call(*args)

    operation.__name__ = f"{FENCE}{len(fences) - 1}"
    return jax.jit(operation)(*args)


def _function(fences: list[dict[str, Any]], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        arrays = [i for i, x in enumerate(args) if isinstance(x, jax.Array)]
        if not arrays or any(isinstance(x, jax.Array) for x in kwargs.values()):
            return function(*args, **kwargs)

        def inner(*given: Any) -> Any:
            full = list(args)
            for i, x in zip(arrays, given, strict=True):
                full[i] = x
            return function(*full, **kwargs)

        facts = {
            "operation": name,
            "name": "",
            "attributes": {k: v for k, v in kwargs.items() if _is_plain(v)},
        }
        return _fence(fences, facts, inner, *(args[i] for i in arrays))

    return call


def _nnx_layer(fences: list[dict[str, Any]], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, jax.Array):
            return function(self, x, *args, **kwargs)
        facts = {"operation": name, "name": "", "attributes": _attributes(name, self, x)}
        return _fence(fences, facts, lambda x: function(self, x, *args, **kwargs), x)

    return call


def _nnx_rnn(fences: list[dict[str, Any]], function: Callable[..., Any]) -> Callable[..., Any]:
    from flax import nnx

    @functools.wraps(function)
    def call(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        if type(self.cell).__name__ not in CELLS:
            return function(self, x, *args, **kwargs)
        facts = {"operation": "LSTM", "name": "", "attributes": {}}
        kwargs = _with_carry(self, x, kwargs)
        graph, state = nnx.split(self)  # merged within the fence, as NNX uses no module of an outer trace
        leaves, tree = jax.tree.flatten(state)

        def inner(x: Any, *leaves: Any) -> Any:
            return function(nnx.merge(graph, jax.tree.unflatten(tree, leaves)), x, *args, **kwargs)

        return _fence(fences, facts, inner, x, *leaves)

    return call


def _with_carry(layer: Any, x: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an RNN's call, with a first state of the inputs' type: Flax's has the weights'."""
    time_major = kwargs.get("time_major")
    time_major = layer.time_major if time_major is None else time_major
    batch = x.shape[1:-1] if time_major else x.shape[:-2]
    size = getattr(layer.cell, "hidden_features", None) or layer.cell.features
    given = kwargs.get("initial_carry")
    zeros = jnp.zeros((*batch, size), x.dtype)
    return {**kwargs, "initial_carry": (zeros, zeros) if given is None else given}


def _linen_layer(fences: list[dict[str, Any]], function: Any, args: Any, kwargs: Any, context: Any) -> Any:
    name = type(context.module).__name__
    if name == "RNN" and type(context.module.cell).__name__ in CELLS:
        name, kwargs = "LSTM", _with_carry(context.module, args[0], kwargs)
    known = name in (*LEAVES, *NORMS, "LSTM")
    if context.method_name != "__call__" or not known or not isinstance(args[0], jax.Array):
        return function(*args, **kwargs)
    path = "/".join(context.module.path)
    facts = {"operation": name, "name": path, "attributes": _attributes(name, context.module, args[0])}
    if context.module.is_initializing():
        return function(*args, **kwargs)
    return _fence(fences, facts, lambda x: function(x, *args[1:], **kwargs), args[0])


def _attributes(name: str, layer: Any, x: Any) -> dict[str, Any]:
    found = {
        n: getattr(layer, n) for n in ("epsilon", "momentum") if isinstance(getattr(layer, n, None), float)
    }
    if name != "Conv":
        return found
    rank = x.ndim - 2
    size = layer.kernel_size
    size = list(size) if isinstance(size, Sequence) else [size] * rank

    def each(value: Any) -> list[int]:
        return [int(v) for v in value] if isinstance(value, Sequence) else [int(value or 1)] * rank

    stride, dilation, padding = each(layer.strides), each(layer.kernel_dilation), layer.padding
    if isinstance(padding, str) and padding.upper() in ("SAME", "VALID"):
        padding = padding_of(padding, x.shape[1:-1], stride, dilation, size)
    elif isinstance(padding, int):
        padding = [[padding, padding]] * rank
    elif isinstance(padding, Sequence) and not isinstance(padding, str):
        padding = [[p, p] if isinstance(p, int) else [int(v) for v in p] for p in padding]
    return {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": int(layer.feature_group_count),
        "channels": -1,
    }  # fmt: skip


class _Interpreter:
    """Evaluates a jaxpr, and records its operations; calls are entered, fenced ones are one operation."""

    def __init__(self, recorder: Recorder, fences: list[dict[str, Any]]):
        self.recorder, self.fences = recorder, fences
        self.views: dict[int, View] = {}

    def evaluate(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        """The outputs of a jaxpr."""
        values: dict[Any, Any] = {}
        values.update(zip(jaxpr.constvars, consts, strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=True))
        for equation in jaxpr.eqns:
            inputs = [x.val if hasattr(x, "val") else values[x] for x in equation.invars]
            outputs = self.operation(equation, inputs)
            values.update(zip(equation.outvars, outputs, strict=True))
        return [x.val if hasattr(x, "val") else values[x] for x in jaxpr.outvars]

    def operation(self, equation: Any, inputs: list[Any]) -> list[Any]:
        """The outputs of one equation."""
        primitive, name = equation.primitive, equation.params.get("name")
        if primitive.name in CALLS and not str(name).startswith(FENCE):
            closed = equation.params[CALLS[primitive.name]]
            return self.evaluate(closed.jaxpr, closed.consts, inputs)
        result = _bound(equation, inputs)
        outputs = list(result) if primitive.multiple_results else [result]
        viewed = [x for x in inputs if id(x) in self.views]
        if primitive.name in MOVES | COPIES and len(viewed) == 1 == len(inputs):
            return [self.moved(equation, viewed[0], outputs[0])]
        outputs = [_own(y) for y in outputs]
        if primitive.name in CALLS:
            return self.fence(self.fences[int(name.removeprefix(FENCE))], inputs, outputs)
        return self.primitive(equation, inputs, outputs)

    def moved(self, equation: Any, weight: Any, output: Any) -> Any:
        """A weight rearranged."""
        view, output = self.views[id(weight)], _own(output)
        if equation.primitive.name in COPIES:
            self.views[id(output)] = view
        else:
            moved = _bound(equation, [jnp.asarray(view.indices)])
            self.views[id(output)] = View(view.name, np.asarray(moved))
        self.recorder.alive.append(output)
        return output

    def data(self, inputs: list[Any]) -> list[Any]:
        return [
            x
            for x in inputs
            if id(x) not in self.views and isinstance(x, jax.Array) and self.recorder.source(x)
        ]

    def fence(self, facts: dict[str, Any], inputs: list[Any], outputs: list[Any]) -> list[Any]:
        kind = kind_of(facts["operation"])
        views = [self.views[id(x)] for x in inputs if id(x) in self.views]
        weights = _lstm(views) if kind == "lstm" else {_role(kind, view.name): view for view in views}
        name = facts["name"] or (views[0].name.rpartition("/")[0] if views else "")
        if "kernel" in weights and kind == "conv":
            weights["kernel"] = weights["kernel"].map(lambda i: np.moveaxis(i, (-1, -2), (0, 1)))
        elif "kernel" in weights and kind == "dense":
            weights = _dense(weights, inputs, outputs)
        return self.recorder.add(
            facts["operation"], name, self.data(inputs), outputs, kind=kind, attributes=facts["attributes"],
            weights=weights,
        )  # fmt: skip

    def primitive(self, equation: Any, inputs: list[Any], outputs: list[Any]) -> list[Any]:
        name = equation.primitive.name
        views = {i: self.views[id(x)] for i, x in enumerate(inputs) if id(x) in self.views}
        weights = {f"weight{n or ''}": view for n, view in enumerate(views.values())}
        kind = "cast" if name in COPIES else "move" if name in MOVES else kind_of(name)
        attributes: dict[str, Any] = {}
        if name == "dot_general" and len(views) == 1:
            kind, weights = (
                "dense",
                _product(equation.params["dimension_numbers"], *next(iter(views.items()))),
            )
        elif name == "conv_general_dilated" and 1 in views:
            weights, attributes = _convolution(equation.params, views[1])
        elif name == "gather" and 0 in views:
            kind, weights = "embedding", {"kernel": views[0]}
        where = next(iter(views.values())).name if views else ""
        return self.recorder.add(
            name, where, self.data(inputs), outputs, kind=kind, attributes=attributes, weights=weights
        )


def _bound(equation: Any, inputs: list[Any]) -> Any:
    """What an equation computes; before JAX 0.10 the functions among its parameters came apart."""
    found = equation.primitive.get_bind_params(equation.params)
    functions, parameters = found if isinstance(found, tuple) else ([], found)
    return equation.primitive.bind(*functions, *inputs, **parameters)


def _lstm(views: Sequence[View]) -> dict[str, View]:
    """An LSTM's weights by gate: of one layer for the four, "dense_h", or of one each, "hi", "hf" ..."""
    found: dict[str, View] = {}
    for view in views:
        *_, layer, last = view.name.split("/")
        whole = layer.startswith("dense_")
        side = layer.removeprefix("dense_")[0]
        role = "bias" if last == "bias" else "kernel" if side == "i" else "recurrent"
        turned = view.map(np.transpose)
        found |= lstm_gates({role: turned}) if whole else {f"{role}.{layer[1]}": turned}
    return found


def _role(kind: str, name: str) -> str:
    last = name.rpartition("/")[2]
    if kind.endswith("norm"):
        return ROLES.get(last, last)
    return "kernel" if last in ("embedding", "kernel") else last


def _dense(weights: dict[str, View], inputs: list[Any], outputs: list[Any]) -> dict[str, View]:
    """(in ..., out ...) as (out, in): a bias has the shape of the outputs."""
    kernel = weights["kernel"]
    shape = kernel.indices.shape
    features = len(weights["bias"].indices.shape) if "bias" in weights else None
    data = next(x for x in inputs if x.ndim and x.shape != shape)
    if features is None:  # the axes of the output that are those of the kernel's end
        features = next(n for n in range(len(shape)) if math.prod(shape[: len(shape) - n]) and (
            data.ndim - (len(shape) - n) + n == outputs[0].ndim
        ))  # fmt: skip
    rows = math.prod(shape[len(shape) - features :])
    weights["kernel"] = kernel.map(lambda i: i.reshape(-1, rows).T)
    if "bias" in weights:
        weights["bias"] = weights["bias"].map(np.ravel)
    return weights


def _product(numbers: Any, position: int, view: View) -> dict[str, View]:
    """A weight in a product as (out, in)."""
    contracted = numbers[0][position]
    rest = [i for i in range(view.indices.ndim) if i not in contracted]
    size = math.prod(view.indices.shape[i] for i in rest)
    return {"kernel": view.map(lambda i: i.transpose([*rest, *contracted]).reshape(size, -1))}


def _convolution(parameters: Any, view: View) -> tuple[dict[str, View], dict[str, Any]]:
    numbers = parameters["dimension_numbers"]
    return {"kernel": view.map(lambda i: i.transpose(numbers.rhs_spec))}, {
        "stride": list(parameters["window_strides"]),
        "padding": [list(p) for p in parameters["padding"]],
        "dilation": list(parameters["rhs_dilation"]),
        "groups": parameters["feature_group_count"],
        "channels": 1 if numbers.lhs_spec[1] == 1 else -1,
    }


def _path(entries: Sequence[Any]) -> str:
    return "/".join(str(getattr(e, "key", getattr(e, "idx", getattr(e, "name", e)))) for e in entries)


def _wide(x: Any) -> Any:
    array = np.asarray(x)
    return jnp.asarray(array, np.float64) if array.dtype.kind == "f" else jnp.asarray(array)


def _own(x: Any) -> Any:
    """An array object of its own, by whose id its origin is known."""
    return jnp.array(x, copy=True)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
