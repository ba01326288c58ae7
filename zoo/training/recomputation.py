"""Activation recomputation: a step keeps the tensors between a model's segments, and computes others twice.

Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv:1604.06174: of n operations about
sqrt(n) segments of equal size, each but the last computed again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil, prod, sqrt
from typing import Any

from zoo._lazy import keras
from zoo.errors import WrongConfiguration
from zoo.layers.recomputation import recompute

Tensor = Any


@contextmanager
def recomputing(model: keras.Model, wanted: bool) -> Iterator[None]:
    """Within, `model` is called in training by segments that are computed again in the backward pass."""
    if not wanted:
        yield
        return
    graph = _graph(model)
    by_segments = BySegments(graph)
    graph.call, graph._run_through_graph = by_segments.call, by_segments.run
    try:
        yield
    finally:
        del graph.call, graph._run_through_graph  # of the instance: the class has its own


def check_recomputation(model: keras.Model) -> None:
    """Raise WrongConfiguration for a model without a graph of layers, or one whose layers send masks."""
    _nodes(_graph(model))


@dataclass(frozen=True)
class Segment:
    """Consecutive nodes of a graph, by the tensors that they take and those that later ones take."""

    nodes: Sequence[Any]
    inputs: Sequence[int]
    outputs: Sequence[int]

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """Those that its nodes call."""
        called = {id(node.operation): node.operation for node in self.nodes}
        return [layer for layer in called.values() if isinstance(layer, keras.layers.Layer)]

    def __call__(self, of: Callable[[Any], Any], *tensors: Tensor) -> list[Tensor]:
        """The outputs, `of` being what calls an operation."""
        values = dict(zip(self.inputs, tensors, strict=True))
        for node in self.nodes:
            args, kwargs = node.arguments.fill_in(values)
            found = keras.tree.flatten(of(node.operation)(*args, **kwargs))
            values |= zip(map(id, node.outputs), found, strict=True)
        return [values[name] for name in self.outputs]


class BySegments:
    """The methods of a functional model that run its graph, in training by segments."""

    def __init__(self, graph: Any):
        self.inputs, self.outputs = ([id(x) for x in tensors] for tensors in (graph.inputs, graph.outputs))
        self.whole_call, self.whole_run = graph.call, graph._run_through_graph
        self.segments, self.training = split(graph), False

    def call(self, inputs: Any, training: bool | None = None, **options: Any) -> Any:
        """Functional.call, noting whether it trains."""
        self.training = bool(training)
        return self.whole_call(inputs, training=training, **options)

    def run(self, inputs: Any, operation_fn: Callable[[Any], Any], call_fn: Any = None) -> Any:
        """Function._run_through_graph: the list of outputs."""
        if not self.training or call_fn is not None:
            return self.whole_run(inputs, operation_fn=operation_fn, call_fn=call_fn)
        values = dict(zip(self.inputs, keras.tree.flatten(inputs), strict=True))
        for segment in self.segments:
            tensors = [values[name] for name in segment.inputs]
            if segment is self.segments[-1]:
                found = segment(operation_fn, *tensors)
            else:
                found = recompute(lambda *x, s=segment: s(operation_fn, *x), segment.layers, *tensors)
            values |= zip(segment.outputs, found, strict=True)
        return [values[name] for name in self.outputs]


def split(graph: Any) -> list[Segment]:
    """About sqrt(n) segments of a functional model of n operations.

    Their outputs have about the same size in all, and they are cut where the smallest tensors pass. Raises
    WrongConfiguration as `check_recomputation`.
    """
    nodes = _nodes(graph)
    sizes = list(accumulate(sum(map(_size, node.outputs)) for node in nodes))
    passing, ends = _passing(nodes, graph.outputs), {id(x) for x in graph.outputs}
    wide, cuts = sizes[-1] / ceil(sqrt(len(nodes))), [0]
    while len(nodes) - cuts[-1] > 1:
        done = sizes[cuts[-1] - 1] if cuts[-1] else 0
        if sizes[-1] - done <= 1.5 * wide:
            break
        near = [i for i in range(cuts[-1] + 1, len(nodes)) if abs(sizes[i - 1] - done - wide) <= wide / 2]
        cuts.append(min(near, key=lambda i: (passing[i], i)) if near else cuts[-1] + 1)
    segments = []
    for start, stop in pairwise([*cuts, len(nodes)]):
        part = nodes[start:stop]
        own = [id(x) for node in part for x in node.outputs]
        later = {id(x) for node in nodes[stop:] for x in node.arguments.keras_tensors} | ends
        inputs = dict.fromkeys(id(x) for node in part for x in node.arguments.keras_tensors)
        segments.append(Segment(part, [x for x in inputs if x not in own], [x for x in own if x in later]))
    return segments


def _size(x: Tensor) -> int:
    """The numbers of a tensor, of dimensions that are known."""
    return prod(length or 1 for length in x.shape)


def _passing(nodes: Sequence[Any], outputs: Sequence[Tensor]) -> list[int]:
    """For each cut, the numbers that are computed before it and needed behind it."""
    last = {id(x): i for i, node in enumerate(nodes) for x in node.arguments.keras_tensors}
    last |= {id(x): len(nodes) - 1 for x in outputs}
    passing = [0] * len(nodes)
    for i, node in enumerate(nodes):
        for x in node.outputs:
            for cut in range(i + 1, last.get(id(x), i) + 1):
                passing[cut] += _size(x)
    return passing


def _graph(model: keras.Model) -> Any:
    """The functional model that has the layers: within a Sequential, or of the one layer of one around it."""
    graph: Any = getattr(model, "_functional", model)
    if not hasattr(graph, "_nodes_by_depth"):
        raise WrongConfiguration(
            f"recompute=True: {model.name} is a {type(model).__name__}; expected a functional or Sequential "
            "model, whose graph of layers can be cut. Leave it out, or build it within keras.RematScope"
        )
    layers = [layer for layer in graph.layers if not isinstance(layer, keras.layers.InputLayer)]
    return _graph(layers[0]) if len(layers) == 1 and isinstance(layers[0], keras.Model) else graph


def _nodes(graph: Any) -> list[Any]:
    """The calls of a functional model's operations, each behind those that it needs."""
    depths = sorted(graph._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in graph._nodes_by_depth[depth] if not node.is_input]
    for node in nodes:
        if any(getattr(x, "_keras_mask", None) is not None for x in node.outputs):
            raise WrongConfiguration(
                f"recompute=True: layer {node.operation.name} sends a mask beside its output, which would be "
                "lost between segments; pass masks as inputs, or leave it out"
            )
    return nodes
