"""What torch's traced graphs leave out is nothing that matters: theirs is the function itself."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo import backends, optimizers
from zoo.training import objectives

if backends.current().NAME != "torch":
    pytest.skip("about torch's graphs", allow_module_level=True)

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from zoo.backends.torch_graph import overwrite, record, use_onednn

Tensor = torch.Tensor

# (4, 4) -> (4, 4), some of them views
STEPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda x, y: torch.relu(x),
    "gelu": lambda x, y: torch.nn.functional.gelu(x),
    "silu": lambda x, y: torch.nn.functional.silu(x),
    "add": lambda x, y: x + y,
    "multiply": lambda x, y: x * y,
    "double": lambda x, y: x * 2,
    "there": lambda x, y: x.permute(1, 0),
    "turned": lambda x, y: x.transpose(-1, 0),
    "t": lambda x, y: x.t(),
    "cube": lambda x, y: x.reshape(2, 2, 4).transpose(0, 1).transpose(1, 0).reshape(4, 4),
    "long": lambda x, y: x.reshape(16).view(4, 2, 2).view(4, 4),
    "counted": lambda x, y: x + torch.arange(4.0),
    "filled": lambda x, y: torch.zeros(4, 4).add_(y),
    "rows": lambda x, y: torch.full((4, 4), 2.0).view(2, 8).view(4, 4) * x,
    "reshape": lambda x, y: x.reshape(2, 8).reshape(4, 4),
    "row": lambda x, y: x[1:2].expand(4, 4),
    "halves": lambda x, y: torch.cat(x.split(2)[::-1]),
    "half": lambda x, y: x.split(2)[0].relu().repeat(2, 1),
    "detach": lambda x, y: x.detach(),
}
index = st.integers(0, 20)
programs = st.lists(st.tuples(st.sampled_from(sorted(STEPS)), index, index), min_size=1, max_size=12)


@given(programs, st.lists(index, min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_a_tidied_graph_computes_the_same_and_leaves_its_inputs_alone(
    program: list[tuple[str, int, int]], results: list[int]
) -> None:
    def function(a: Tensor, b: Tensor) -> list[Tensor]:
        values = [a, b]
        for name, i, j in program:
            values.append(STEPS[name](values[i % len(values)], values[j % len(values)]))
        return [values[-1 - i % len(values)] for i in results]

    first, second = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    inputs = first.clone(), second.clone()
    graph = overwrite(record(function, *inputs))
    free, bound = graph.bound(), graph.bound(inputs[0])
    for _ in range(2):  # what is done once is done for all runs, with whatever numbers
        for run in (free, lambda _, y: bound(y)):
            for ours, theirs in zip(run(*inputs), function(first, second), strict=True):
                assert torch.equal(ours, theirs)
        assert torch.equal(inputs[0], first)
        assert torch.equal(inputs[1], second)
        inputs[0].mul_(2)
        first = inputs[0].clone()


def operations(function: Callable[..., Any], *inputs: Any) -> Counter[str]:
    graph = overwrite(record(function, *inputs)).graph
    return Counter(str(node.target) for node in graph.nodes if node.op == "call_function")


def test_an_activation_takes_the_place_of_what_nothing_else_reads() -> None:
    x = torch.ones(2, 3)
    assert operations(lambda x: torch.relu(x * 2), x) == {"aten.mul.Tensor": 1, "aten.relu_.default": 1}
    assert operations(lambda x: torch.relu(x).sum(), x)["aten.relu.default"] == 1  # an input of the graph


def test_a_permutation_there_and_back_is_left_out() -> None:
    x = torch.ones(2, 3, 4)
    there = (2, 0, 1)
    assert operations(lambda x: x.permute(there).permute(1, 2, 0) * 2, x) == {"aten.mul.Tensor": 1}
    assert operations(lambda x: x.permute(there).permute(there) * 2, x)["aten.permute.default"] == 2


# Of (80, 60), (60, 500) and 500 numbers -> how many of its products are oneDNN's.
PRODUCTS: dict[str, tuple[int, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "alone": (1, lambda x, w, b: x @ w),
    "with a bias": (1, lambda x, w, b: torch.addmm(b, x, w)),
    "with an activation": (1, lambda x, w, b: torch.addmm(b, x, w).view(8, 10, 500).relu()),
    "stored outputs first": (1, lambda x, w, b: torch.addmm(b, x, w.t().contiguous().t())),
    "two": (2, lambda x, w, b: (x @ w) @ w.t()),
    "turned": (1, lambda x, w, b: w.t() @ x.t()),
    "one row, repeated": (1, lambda x, w, b: x[:1].expand(80, 60) @ w),
    "every other number": (1, lambda x, w, b: torch.cat([x, x], 1)[:, ::2] @ torch.cat([w, w])[::2]),
    "every other bias": (0, lambda x, w, b: torch.addmm(torch.cat([b, b])[::2], x, w)),
    "a bias for each row": (0, lambda x, w, b: torch.addmm(x[:, :1], x, w)),
    "scaled": (0, lambda x, w, b: torch.addmm(b, x, w, alpha=2)),
    "small": (0, lambda x, w, b: x[:60] @ w),
    "float64": (0, lambda x, w, b: x.double() @ w.double()),
    "not a number": (1, lambda x, w, b: (x.masked_fill(x > 3, torch.nan) @ w).relu()),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_a_large_product_of_matrices_is_onednn_s(case: str) -> None:
    """The same numbers but for rounding, NaN among them."""
    expected, function = PRODUCTS[case]
    random = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=random) for shape in ((80, 60), (60, 500), (500,))]
    graph = overwrite(use_onednn(record(function, *inputs)))
    targets = [str(node.target) for node in graph.graph.nodes]
    assert targets.count("mkldnn._linear_pointwise.default") == expected
    exact = function(*(x.double() for x in inputs))
    rounding = 1e-6 * float(exact.nan_to_num().abs().max())
    found = graph.bound()(*inputs).double()
    torch.testing.assert_close(found, exact, rtol=0, atol=rounding, equal_nan=True)


class Seen(TorchDispatchMode):
    """Counts what torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counted[str(function)] += 1
        return function(*args, **(kwargs or {}))


def test_a_kernel_is_turned_and_a_constant_made_once() -> None:
    """Not anew in every run; a constant that is written into is, and a large one is not kept."""

    def function(kernel: Tensor, x: Tensor) -> Tensor:
        written = torch.zeros(3).add_(x.sum())
        return x @ kernel.t().reshape(3, 2) + torch.full((2,), 2.0) + written.sum() + torch.zeros(5000).sum()

    kernel, x = torch.ones(2, 3), torch.ones(2, 3)
    run = overwrite(record(function, kernel, x)).bound(kernel)
    counts = []
    for each in (lambda: function(kernel, x), lambda: run(x)):
        with Seen() as seen:
            found = each()
        counts.append([seen.counted[f"aten.{name}.default"] for name in ("t", "full", "zeros")])
        assert torch.equal(found, function(kernel, x))
    assert counts == [[1, 1, 2], [0, 0, 2]]


@pytest.mark.parametrize(
    ("processor", "capability", "expected"),
    [("AMD EPYC", "AVX512", 2), ("Intel(R) Xeon(R)", "AVX512", 0), ("AMD EPYC", "AVX2", 0)],
)
def test_mkl_keeps_its_products_at_home_and_in_training(
    monkeypatch: pytest.MonkeyPatch, processor: str, capability: str, expected: int
) -> None:
    """Where it is Intel's processor or has no wider instructions to leave unused."""
    monkeypatch.setattr("zoo.backends.torch.processor", lambda: processor)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    model = zoo.build("mlp")
    x, y = torch.ones(64, 28, 28, 1), torch.zeros(64, dtype=torch.int64)
    loss = objectives.Objective("cross_entropy").native()
    step = backends.current().step(model, loss, optimizers.SGD(0.1), "traced")
    predict = backends.current().predictor(model, "traced")
    runs: list[tuple[Callable[[], Any], int]] = [(lambda: predict(x), expected), (lambda: step(x, y), 0)]
    for run, products in runs:
        with Seen() as seen:
            run()
        assert seen.counted["mkldnn._linear_pointwise.default"] == products


CHANNELS = (
    64  # the most of this model: as long a running mean is, and no kernel is shorter than 16 times that
)


@pytest.fixture(scope="module")
def model() -> Any:
    """Wide enough for oneDNN to prefer a layout of its own."""
    return zoo.build("resnet18", depths=(1, 1), width=32, image_size=32, classes=16)


def copies(function: Callable[[], Any]) -> list[int]:
    """How many numbers each copy that torch makes has, those inside oneDNN's own backward pass left out."""
    function()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        function()
    made = [event for event in found.events() if event.name == "aten::copy_"]
    return [int(np.prod(e.input_shapes[0])) for e in made if "convolution_backward" not in callers(e)]


def callers(event: Any) -> str:
    return f"{callers(event.cpu_parent)} {event.cpu_parent.name}" if event.cpu_parent else ""


def test_a_prediction_copies_neither_images_nor_kernels(model: Any) -> None:
    x = torch.tensor(zoo.example(model))
    predict = backends.current().predictor(model, "traced")
    assert max(copies(lambda: predict(x)), default=0) <= CHANNELS


@pytest.mark.parametrize("optimizer", ["AdamW", "Momentum"])
def test_a_step_copies_neither_images_nor_kernels_nor_gradients(model: Any, optimizer: str) -> None:
    x, y = torch.tensor(zoo.example(model)), torch.zeros(2, dtype=torch.int64)
    loss = objectives.Objective("cross_entropy").native()
    step = backends.current().step(model, loss, getattr(optimizers, optimizer)(1e-3), "traced")
    assert max(copies(lambda: step(x, y))) <= CHANNELS


def test_what_keras_remembers_of_a_weight_lies_in_memory_as_the_weight(model: Any) -> None:
    optimizer = optimizers.Adam(1e-3, use_ema=True)
    optimizer.build(model.trainable_variables)
    for kept in (*optimizer.slots.values(), optimizer._model_variables_moving_average):
        for variable, x in zip(model.trainable_variables, kept, strict=True):
            assert x.value.stride() == variable.value.stride()
            assert x.dtype == variable.dtype
            assert not x.value.any()
