"""Torch functions recorded as flat graphs of operations, and simplifications of these graphs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import optree
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.fx.node import map_arg
from zoo.backends import drawing_nothing

aten: Any = torch.ops.aten
tree: Any = optree  # of arguments of whatever kind

# The same elements under another shape.
RESHAPING = {
    aten.permute.default, aten.transpose.int, aten.t.default, aten.view.default, aten._unsafe_view.default,
    aten.unsqueeze.default, aten.squeeze.dim,
}  # fmt: skip
IN_PLACE = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.gelu.default: aten.gelu_.default,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.relu.default: aten.relu_.default,
    aten.silu.default: aten.silu_.default,
}
VIEWS = {aten.view.default, aten._unsafe_view.default}
CONSTANT = {aten.arange.start_step, aten.full.default, aten.scalar_tensor.default, aten.zeros.default}
FEW = 4096  # elements of a constant worth keeping
PRODUCTS = {aten.addmm.default, aten.mm.default}
MUCH = 2**21  # multiply-adds from which a call of oneDNN, about 10 us, is worthwhile
READS_VALUES = DataDependentOutputException, GuardOnDataDependentSymNode
KEEPING = RESHAPING.union(IN_PLACE.values())


class Recorded:
    """A pure function of tensors as one flat graph, whose inputs are the leaves of its arguments."""

    def __init__(self, module: GraphModule, result: Any):
        self.module, self.result = module, result

    @property
    def graph(self) -> Graph:
        return self.module.graph

    def bound(self, *fixed: Any, compiled: bool = False) -> Callable[..., Any]:
        """The function of the other arguments, with these bound; their values may change, not the tensors.

        Views of them and small constants are computed here, once. With `compiled` the rest is compiled by
        TorchInductor, which takes seconds.
        """
        leaves = tree.tree_leaves(fixed)
        first = [node for node in self.graph.nodes if node.op == "placeholder"][: len(leaves)]
        values: dict[Node, torch.Tensor] = dict(zip(first, leaves, strict=True))
        with torch.no_grad():
            for node in self.graph.nodes:
                if node.op == "call_function" and (_is_shape(node, values) or _is_constant(node)):
                    values[node] = node.target(*map_arg(node.args, values.__getitem__), **node.kwargs)
        graph, made = Graph(), {}
        for node in values:
            made[node] = graph.placeholder(node.name)
        for node in self.graph.nodes:
            if node not in made:
                made[node] = graph.node_copy(node, made.__getitem__)
                if node.target is aten.view.default:  # recorded strides may be wrong: native_batch_norm's are
                    made[node].target = aten.reshape.default
        graph.eliminate_dead_code()
        known, result = tuple(values.values()), self.result
        run: Any = GraphModule(self.module, graph)
        run = torch.compile(run, dynamic=False) if compiled else run

        def call(*arguments: Any) -> Any:
            return tree.tree_unflatten(result, run(*known, *tree.tree_leaves(arguments)))

        return call


def record(function: Callable[..., Any], *arguments: Any) -> Recorded:
    """Record the operations of a pure function, for tensors of the same shapes as the arguments.

    Raises RuntimeError for a function that reads the value of a tensor, or draws from Python's or NumPy's
    global generator, whose numbers the graph would repeat.
    """
    leaves, structure = tree.tree_flatten(arguments)
    result: Any = None

    def flat(*leaves: torch.Tensor) -> list[torch.Tensor]:
        nonlocal result
        found, result = tree.tree_flatten(function(*tree.tree_unflatten(structure, leaves)))
        return found

    try:
        with drawing_nothing():
            module = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*leaves)
    except READS_VALUES as error:
        raise RuntimeError(
            "the value of a tensor is read, for example by a Keras layer that draws from a seed"
        ) from error
    return _tidied(Recorded(module, result))


def _tidied(recorded: Recorded) -> Recorded:
    """Without operations that are repeated, undone or unused."""
    seen: dict[Any, Node] = {}
    for node in list(recorded.graph.nodes):
        if (same := _spared(node, seen)) is not None:
            node.replace_all_uses_with(same)
    recorded.graph.eliminate_dead_code()
    return recorded


def _spared(node: Any, seen: dict[Any, Node]) -> Node | None:
    """The node that this one equals: outside autograd, that of a detach, a repetition or an undone view."""
    if node.target is aten.detach.default:
        return node.args[0]
    if node.target not in RESHAPING:
        return None
    inner = node.args[0]
    if node.target in VIEWS and inner.target in VIEWS:
        node.args = inner.args[0], *node.args[1:]
    elif node.target is inner.target and node.target in UNDONE:
        if UNDONE[node.target](inner, node):
            return inner.args[0]
    elif node.target in VIEWS and _shape(inner) == _shape(node):
        return inner
    first = seen.setdefault((node.target, node.args), node)
    return None if first is node else first


def _permuted_back(inner: Any, node: Any) -> bool:
    there, back = inner.args[1], node.args[1]
    return [there[i] for i in back] == sorted(back)


def _transposed_back(inner: Any, node: Any) -> bool:
    return len({frozenset(axis % len(_shape(node)) for axis in each.args[1:]) for each in (inner, node)}) == 1


# Operations that can undo themselves -> whether the second undoes the first.
UNDONE: dict[Any, Callable[[Any, Any], bool]] = {
    aten.permute.default: _permuted_back,
    aten.transpose.int: _transposed_back,
    aten.t.default: lambda inner, node: True,
}


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _is_shape(node: Any, values: Mapping[Node, Any]) -> bool:
    """Whether a node is a view of one of these values."""
    return node.target in RESHAPING and node.args[0] in values


def _is_constant(node: Any) -> bool:
    """Whether a node is a small constant that is never written to."""
    return node.target in CONSTANT and node.meta["val"].numel() <= FEW and not _is_written(node)


def _is_written(node: Node) -> bool:
    """Whether the memory of a node is or may be written to later."""

    def looks(user: Any) -> bool:
        return _is_view(user) and user.all_input_nodes[0] is node

    return any(_writes(user, node) or (looks(user) and _is_written(user)) for user in node.users)


def _writes(user: Any, node: Node) -> bool:
    if (schema := getattr(user.target, "_schema", None)) is None:
        return True
    changed = [alias is not None and alias.is_write for alias in (x.alias_info for x in schema.arguments)]
    return any(node is each for each, written in zip(user.args, changed, strict=False) if written)


def use_onednn(recorded: Recorded) -> Recorded:
    """Use oneDNN instead of MKL for large matrix products in float32 on a CPU.

    Their rounding errors were measured to be 1.5 to 2.2 times MKL's. oneDNN's fused activations are not
    used: its ReLU of NaN is 0.
    """
    graph = recorded.graph
    for node in list(graph.nodes):
        if _is_large_product(node):
            *bias, x, matrix = node.args
            with graph.inserting_before(node):
                turned = graph.call_function(aten.t.default, (matrix,))
            turned.meta["val"] = matrix.meta["val"].t()
            node.target = torch.ops.mkldnn._linear_pointwise.default
            node.args = x, turned, *(bias or [None]), "none", [], ""
    return _tidied(recorded)


def _is_large_product(node: Any) -> bool:
    """Whether a node is a matrix product, optionally with a bias, large enough for oneDNN."""
    if node.target not in PRODUCTS or node.kwargs:
        return False
    *bias, x, matrix = (each.meta["val"] for each in node.args)
    plain = x.device.type == "cpu" and x.dtype is matrix.dtype is torch.float32
    # oneDNN ignores the stride of a bias.
    in_order = all(each.ndim == 1 and each.is_contiguous() for each in bias)
    return plain and in_order and x.numel() * matrix.shape[1] >= MUCH


def overwrite(recorded: Recorded) -> Recorded:
    """Compute sums, products and activations in place if their input is not read later.

    New memory costs a CPU more than the arithmetic: without this EfficientNet-B0 takes 1.14 times as long to
    predict.
    """
    position = {node: i for i, node in enumerate(recorded.graph.nodes)}
    owner: dict[Node, Node] = {}  # the node that a node's memory was made for
    last: dict[Node, int] = {}  # where that is read for the last time
    for node in position:
        owner[node] = owner[node.all_input_nodes[0]] if _is_view(node) else node
        last[owner[node]] = max([last.get(owner[node], 0), *map(position.__getitem__, node.users)])
    for node in position:
        if _is_view(node):
            owner[node] = owner[node.all_input_nodes[0]]
        elif (old := _replaceable(node, owner)) is not None and last[old] == position[node]:
            node.target = IN_PLACE[node.target]
            owner[node], last[old] = old, last[node]
    return recorded


def _replaceable(node: Any, owner: dict[Node, Node]) -> Node | None:
    """The node whose memory this node's result can overwrite."""
    if node.target not in IN_PLACE:
        return None
    first, *others = node.all_input_nodes
    result, old = node.meta.get("tensor_meta"), owner[first]
    known = first.meta.get("tensor_meta")
    fits = result and known and (result.shape, result.dtype) == (known.shape, known.dtype)
    while first is not old and first.target in KEEPING:
        first = first.all_input_nodes[0]
    whole = first is old and old.op == "call_function" and not _is_constant(old)
    return old if whole and fits and all(owner[other] is not old for other in others) else None


def _is_view(node: Any) -> bool:
    """Whether a node shares the memory of its first input."""
    if node.target is operator.getitem:
        return _is_view(node.all_input_nodes[0])
    returns = getattr(getattr(node.target, "_schema", None), "returns", ())
    return node.target in RESHAPING or any(value.alias_info is not None for value in returns)
