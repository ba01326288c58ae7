"""Two implementations that were written apart: matched, carried over, compared, and told why they differ."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NAME

import zoo
from zoo.ladder.causes.trace import arrays
from zoo.ports import _result
from zoo.ports.run import Comparison, Findings, save_inputs
from zoo.ports.side import Side
from zoo.ports.weights import mapping_of

torch = pytest.importorskip("torch")
load_file = pytest.importorskip("safetensors.torch").load_file
nn, F = torch.nn, torch.nn.functional
pytestmark = [pytest.mark.once, pytest.mark.skipif(NAME != "torch", reason="theirs is torch's here")]


class Here:
    """A side in this process: builders are functions, and need no file."""

    def __init__(self, folder: Path, build: Callable[[], Any], monkeypatch: pytest.MonkeyPatch):
        self.folder, self.answers = folder, []
        folder.mkdir()
        self.side = Side(folder, lambda *, last=False, **facts: self.answers.append(facts))
        self.build, self.monkeypatch = build, monkeypatch

    def ask(self, command: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        with self.monkeypatch.context() as patch:
            patch.setattr("zoo.ports.side._build", lambda source: self.build())
            getattr(self.side, command)(**arguments)
        yield self.answers.pop()

    def close(self) -> None:
        pass


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`zoo.diff` without its processes."""

    def run(theirs: Callable[[], Any], ours: Callable[[], Any], inputs: Any, **mapping: str) -> Any:
        builders = iter((theirs, ours))
        monkeypatch.setattr(
            Comparison, "start", lambda self, folder, _: Here(folder, next(builders), monkeypatch)
        )
        scratch = tmp_path / str(len(list(tmp_path.iterdir())))
        scratch.mkdir()
        save_inputs(file := scratch / "inputs.npz", inputs)
        with Comparison(scratch, ("torch", "torch"), lambda _: None) as comparison:
            found: Findings = comparison.run(["", ""], [str(file)] * 2, mapping)
        result = _result(found, ["theirs", "ours"])
        result.mapping = mapping_of(found.carried, arrays(scratch / "theirs.npz"))  # type: ignore[attr-defined]
        return result

    return run


IMAGES = np.random.default_rng(0).normal(size=(2, 3, 16, 16))
TOKENS = np.random.default_rng(0).integers(0, 11, size=(2, 6))


# Two families, each written twice: in modules, and in functions of weights.


class Net(nn.Module):
    """Convolutions, written in modules."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.deep, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head, self.last = nn.Linear(8 * 4 * 4, 12), nn.Linear(12, 5)
        self.scale = nn.LayerNorm(12)

    def forward(self, x: Any) -> Any:
        x = F.gelu(self.norm(self.stem(x)))
        x = x + F.relu(self.second(self.deep(x)))
        x = F.max_pool2d(x, 2).flatten(1)
        return self.last(torch.tanh(self.scale(self.head(x))))


class Images(nn.Module):
    """The same, channels last and with operations of its own; a fault changes one of them."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        torch.manual_seed(1)
        shapes = {
            "k1": (3, 3, 3, 8), "g1": (8,), "b1": (8,), "m1": (8,), "v1": (8,),
            "k2": (3, 3, 8, 8), "c2": (8,), "g2": (8,), "b2": (8,), "m2": (8,), "v2": (8,),
            "w": (128, 12), "c": (12,), "g": (12,), "b": (12,), "wl": (12, 5), "cl": (5,),
        }  # fmt: skip
        for name, shape in shapes.items():
            value = torch.rand(shape) * 0.5 + 0.1
            if name[0] in "mv":
                self.register_buffer(name, value)
            else:
                self.register_parameter(name, nn.Parameter(value))
        self.fault = fault

    def forward(self, x: Any) -> Any:
        fault = self.fault
        x = x.permute(0, 3, 1, 2) if x.shape[-1] == 3 else x
        k1, k2 = self.k1.permute(3, 2, 0, 1), self.k2.permute(3, 2, 0, 1)
        if fault == "padding side":
            x = F.conv2d(F.pad(x, (0, 1, 0, 1)), k1, stride=2)
        elif fault == "no padding value":
            x = F.conv2d(F.pad(x, (1, 1, 1, 1), value=0.5), k1, stride=2)
        else:
            x = F.conv2d(x, k1, stride=2, padding=1)
        epsilon = 1e-3 if fault == "epsilon" else 1.001e-5 if fault == "epsilon, nearly" else 1e-5
        if fault == "training mode":
            x = F.batch_norm(x, self.m1.clone(), self.v1.clone(), self.g1, self.b1, True, 0.1, epsilon)
        else:
            momentum = 0.9 if fault == "momentum" else 0.1
            x = F.batch_norm(x, self.m1, self.v1, self.g1, self.b1, self.training, momentum, epsilon)
        if fault == "gelu":
            x = F.gelu(x, approximate="tanh")
        elif fault == "gelu, quick":
            x = x * torch.sigmoid(1.702 * x)
        elif fault == "silu":
            x = F.silu(x)
        else:
            x = F.gelu(x)
        if fault == "no branch":
            x = F.max_pool2d(x, 2).permute(0, 2, 3, 1).flatten(1) @ self.w + self.c
            return F.layer_norm(x, (12,), self.g, self.b).tanh() @ self.wl + self.cl
        dilation = 2 if fault == "dilation" else 1
        y = F.conv2d(x, k2, None if fault == "no bias" else self.c2, padding=dilation, dilation=dilation)
        y = F.batch_norm(y, self.m2, self.v2, self.g2, self.b2, self.training)
        if fault == "float32":
            y = y.float().double()
        y = {"leaky": lambda y: F.leaky_relu(y, 0.2), "no relu": lambda y: y, "relu6": F.relu6}.get(
            fault, F.relu
        )(y)
        x = {"half a branch": lambda: x + 0.5 * y, "no shortcut": lambda: y}.get(fault, lambda: x + y)()
        x = F.avg_pool2d(x, 2) if fault == "average pool" else F.max_pool2d(x, 2)
        x = x.permute(0, 2, 3, 1).flatten(1) @ self.w + self.c
        if fault == "unbiased variance":
            x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt() * self.g + self.b
        elif fault == "rms norm":
            x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.g + self.b
        else:
            x = F.layer_norm(x, (12,), self.g, self.b, 1e-6 if fault == "layer norm's epsilon" else 1e-5)
        x = x.tanh() * (1.1 if fault == "factor" else 1.0)
        x = x @ self.wl + self.cl
        if fault == "softmax":
            return x.softmax(-1)
        return x.flip(1) if fault == "reversed" else x


# A fault -> the cause to be named, and a word of the operation of theirs or ours to be named with it.
IMAGE_FAULTS = {
    "padding side": ("padding", "stem"),
    "epsilon": ("epsilon", "norm"),
    "epsilon, nearly": ("epsilon", "norm"),
    "training mode": ("training mode", "norm"),
    "gelu": ("gelu", "gelu"),
    "gelu, quick": ("gelu", "gelu"),
    "silu": ("activation", "gelu"),
    "dilation": ("dilation", "deep"),
    "no bias": ("bias", "deep"),
    "float32": ("precision", "float"),
    "leaky": ("activation", "relu"),
    "no relu": ("activation", "relu"),
    "half a branch": ("coefficients", "add"),
    "average pool": ("pool", "max_pool2d"),
    "unbiased variance": ("biased variance", "scale"),
    "rms norm": ("normalization", "scale"),
    "layer norm's epsilon": ("epsilon", "scale"),
    "factor": ("factor", "mul"),
    "softmax": ("softmax", "softmax"),
    "reversed": ("order", "flip"),
}


def test_two_implementations_that_are_equal_have_no_difference(compare: Any) -> None:
    result = compare(Net, Images, IMAGES)
    assert result["differences"] == []
    assert result["weights"]["only_theirs"] == result["weights"]["only_ours"] == []
    assert [step["name"] for step in result["steps"] if not step["holds"]] == []
    assert all(row["holds"] for row in result["operations"] if row["theirs"])
    assert "10 steps" in [step["name"] for step in result["steps"]]
    assert result.equal


@pytest.mark.parametrize("fault", IMAGE_FAULTS)
def test_a_fault_is_found_where_it_is_and_its_cause_named(compare: Any, fault: str) -> None:
    cause, word = IMAGE_FAULTS[fault]
    result = compare(Net, partial(Images, fault), IMAGES)
    first = result["differences"][0]
    assert word in f"{first['theirs']} {first['ours']}"
    assert (first["cause"], first["confirmed"]) == (cause, True)
    assert len(result["differences"]) == 1


class Block(nn.Module):
    """A decoder's block with a fused projection and a fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(8), nn.LayerNorm(8)
        self.projection, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Any) -> Any:
        n, length, _ = x.shape
        q, k, v = (
            y.view(n, length, 2, 4).transpose(1, 2) for y in self.projection(self.before(x)).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, length, 8)
        x = x + self.out(y)
        return x + self.down(F.gelu(self.up(self.after(x))))


class Decoder(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(11, 8), nn.Embedding(16, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.last = nn.LayerNorm(8)

    def forward(self, ids: Any) -> Any:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.last(x) @ self.words.weight.T


class Text(nn.Module):
    """The same with three projections and an attention that is written out; a fault changes one operation."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.fault = fault
        self.table, self.positions = nn.Parameter(torch.randn(11, 8)), nn.Parameter(torch.randn(16, 8))
        sizes = {"q": (8, 8), "k": (8, 8), "v": (8, 8), "o": (8, 8), "u": (8, 32), "d": (32, 8)}
        self.layers = nn.ModuleList()
        for _ in range(2):
            layer = nn.ModuleDict({name: nn.Linear(*size) for name, size in sizes.items()})
            layer["n1"], layer["n2"] = nn.LayerNorm(8), nn.LayerNorm(8)
            self.layers.append(layer)
        self.end = nn.LayerNorm(8)
        self.head = nn.Parameter(torch.randn(11, 8)) if fault == "untied" else self.table

    def forward(self, ids: Any) -> Any:
        fault, (n, length) = self.fault, ids.shape
        offset = 2 if fault == "position" else 0
        x = F.embedding(ids, self.table)
        if fault == "scaled embedding":
            x = x * 8**0.5
        x = x + F.embedding(torch.arange(length) + offset, self.positions)
        for number, layer in enumerate(self.layers):
            x = self.block(x, layer, n, length, fault if number == 1 else "")
        return F.linear(x if fault == "no last norm" else self.end(x), self.head)

    def block(self, x: Any, layer: Any, n: int, length: int, fault: str) -> Any:
        y = layer["n1"](x)
        q, k, v = (layer[name](y).view(n, length, 2, 4).transpose(1, 2) for name in "qkv")
        scores = q @ k.transpose(2, 3) / {"no scale": 1.0, "scale": 4.0}.get(fault, 2.0)
        if fault != "not causal":
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, 8)
        x = x + layer["o"](y)
        y = F.gelu(layer["u"](layer["n2"](x)), approximate="tanh" if fault == "gelu" else "none")
        y = layer["d"](y)
        return x - y if fault == "sign" else x + y


TEXT_FAULTS = {
    "position": ("position", "places"),
    "scaled embedding": ("factor", "mul"),
    "no scale": ("attention", "scaled_dot_product_attention"),
    "scale": ("attention", "scaled_dot_product_attention"),
    "not causal": ("attention", "scaled_dot_product_attention"),
    "gelu": ("gelu", "gelu"),
    "sign": ("coefficients", "sub"),
    "no last norm": ("missing operation", "last"),
}


def test_a_fused_projection_and_a_tied_head_are_matched(compare: Any) -> None:
    result = compare(Decoder, Text, TOKENS)
    assert result["differences"] == []
    assert result.equal
    mapping = result["weights"]["mapping"]
    assert mapping["layers.0.k.weight"]["theirs"] == ["blocks.0.projection.weight"]
    assert mapping["table"]["theirs"] == ["words.weight"]
    assert result["weights"]["only_theirs"] == result["weights"]["only_ours"] == []


@pytest.mark.parametrize(("theirs", "ours", "inputs"), [(Net, Images, IMAGES), (Decoder, Text, TOKENS)])
def test_the_mapping_that_was_found_converts_a_checkpoint_there_and_back(
    compare: Any, tmp_path: Path, theirs: Any, ours: Any, inputs: Any
) -> None:
    compare(theirs, ours, inputs).mapping.save(tmp_path / "mapping.json")
    first, second = theirs().double().eval(), ours().double().eval()
    for parameter in first.parameters():
        nn.init.normal_(parameter, 1.0)
    torch.save(first.state_dict(), tmp_path / "theirs.pt")
    there, back = tmp_path / "ours.safetensors", tmp_path / "theirs.npz"
    assert zoo.weights.convert(tmp_path / "theirs.pt", there, tmp_path / "mapping.json") == []
    missing, unexpected = second.load_state_dict(load_file(there), strict=False)
    assert (set(missing) <= {"head"}, unexpected) == (True, [])  # a head that is tied
    x = torch.from_numpy(inputs)
    torch.testing.assert_close(first(x), second(x), rtol=1e-12, atol=1e-12)
    zoo.weights.convert(there, back, tmp_path / "mapping.json", reverse=True)
    found = arrays(back)
    known = {name: v.numpy() for name, v in first.state_dict().items() if v.is_floating_point()}
    assert found.keys() == known.keys()
    for name, value in known.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_checkpoint_of_another_model_is_not_converted(compare: Any) -> None:
    mapping = compare(Decoder, Text, TOKENS).mapping
    state = {name: x.numpy() for name, x in Decoder().state_dict().items()}
    with pytest.raises(zoo.WeightsMismatch, match=r"1 arrays missing: last\.bias\. Nothing was converted"):
        mapping.convert({name: x for name, x in state.items() if name != "last.bias"})
    with pytest.raises(zoo.WeightsMismatch, match=r"1 arrays unexpected: other\."):
        mapping.convert({**state, "other": np.zeros(2)})


def test_a_head_that_is_not_tied_shows_in_the_steps_alone(compare: Any) -> None:
    result = compare(Decoder, partial(Text, "untied"), TOKENS)
    assert result["differences"] == []
    (apart,) = [step for step in result["steps"] if not step["holds"]]
    assert apart["name"] == "10 steps"
    assert apart["note"] == "tied in theirs alone: words.weight is table and head"


@pytest.mark.parametrize("fault", TEXT_FAULTS)
def test_a_fault_in_a_decoder_is_found_where_it_is_and_its_cause_named(compare: Any, fault: str) -> None:
    cause, word = TEXT_FAULTS[fault]
    result = compare(Decoder, partial(Text, fault), TOKENS)
    first = result["differences"][0]
    assert word in f"{first['theirs']} {first['ours']}"
    assert (first["cause"], first["confirmed"]) == (cause, True)
    assert len(result["differences"]) == 1


def test_dropout_is_left_out_of_the_training_mode(compare: Any) -> None:
    def noisy() -> Any:
        model = Decoder()
        for block in model.blocks:
            forward = block.forward
            block.forward = lambda x, f=forward, b=block: F.dropout(f(x), 0.5, b.training)
        return model

    assert compare(noisy, Text, TOKENS).equal


def test_a_momentum_shows_in_the_state_alone(compare: Any) -> None:
    result = compare(Net, partial(Images, "momentum"), IMAGES)
    assert [step["name"] for step in result["steps"] if step["holds"] is False] == ["state"]
    note = result["steps"][-1]["note"]
    assert "the old statistics weigh 0.9 in theirs, 0.1 in ours, its complement, 1 layers" in note


def test_with_operations_deleted_the_rest_is_matched_rightly(compare: Any) -> None:
    matched = compare(Net, partial(Images, "no branch"), IMAGES)["matched"]
    assert matched["only_theirs"] == ["deep (conv2d)", "second (batch_norm)"]
    assert matched["only_ours"] == []
    pairs = {pair["theirs"]: pair["ours"] for pair in matched["pairs"]}
    assert [ours.partition(" ")[0] for ours in pairs.values()] == [
        "conv2d", "batch_norm", "matmul", "layer_norm", "matmul",
    ]  # fmt: skip
    assert list(pairs) == [
        "stem (conv2d)", "norm (batch_norm)", "head (linear)", "scale (layer_norm)", "last (linear)",
    ]  # fmt: skip


def test_rows_pair_what_computes_the_same_whatever_follows_a_difference(compare: Any) -> None:
    """A residual sum and a pool after the fault have other values, and are paired all the same."""
    result = compare(Net, partial(Images, "gelu"), IMAGES)
    rows = result["operations"]
    names = lambda side: [row[side] and row[side]["operation"] for row in rows]  # noqa: E731
    assert names("theirs") == [
        "conv2d", "batch_norm", "gelu", "conv2d", "batch_norm", "relu", "add", "max_pool2d", "linear",
        "layer_norm", "tanh", None, "linear",
    ]  # fmt: skip
    assert names("ours") == [
        "conv2d", "batch_norm", "gelu", "conv2d", "batch_norm", "relu", "add", "max_pool2d", "matmul",
        "layer_norm", "tanh", "mul", "matmul",
    ]  # fmt: skip
    assert [row["theirs"]["reads"] for row in rows if row["theirs"]][6:9] == [[2, 5], [6], [7]]
    assert [i for i, row in enumerate(rows) if row["holds"]] == [0, 1]
    assert result["differences"][0]["rows"] == [2]
    gelu = rows[2]
    theirs, ours = next(v[1:] for v in gelu["values"] if v[0] == gelu["index"])
    assert (theirs, ours) == (gelu["their_value"], gelu["our_value"])
    assert theirs != ours


def test_progress_counts_operations(compare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    show = property(lambda self: shown.append, lambda self, value: None)
    monkeypatch.setattr(Comparison, "show", show, raising=False)
    compare(Net, partial(Images, "gelu"), IMAGES)
    assert [text for text in shown if text.startswith("comparing")] == [
        f"comparing: {i} of 7 operations" for i in range(1, 8)
    ]
    assert "gradient descent: 9 of 10 steps" not in shown  # the outputs differ
    answers: list[dict[str, Any]] = []
    side = Side(tmp_path, lambda *, last=False, **facts: answers.append(facts))
    clock = iter((0.5, 1.5, 1.6, 3.0))
    side.shown = 0.0
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    for operations in range(4):
        side.progress(operations)
    assert answers == [{"operations": 1}, {"operations": 3}]


def test_rows_of_deleted_operations_have_one_side(compare: Any) -> None:
    rows = compare(Net, partial(Images, "no branch"), IMAGES)["operations"]
    alone = [(row["theirs"] or row["ours"])["kind"] for row in rows if not (row["theirs"] and row["ours"])]
    assert alone == ["conv", "batch_norm", "relu", "add"]
    assert all(row["ours"] is None for row in rows if not (row["theirs"] and row["ours"]))


def test_a_mapping_that_is_given_replaces_what_was_found(compare: Any) -> None:
    """Two norms exchanged on purpose: the outputs differ, and the pair is kept."""
    result = compare(Net, Images, IMAGES, g1="second.weight")
    assert result["weights"]["mapping"]["g1"]["theirs"] == ["second.weight"]
    assert not result.equal
    with pytest.raises(zoo.WrongConfiguration, match="ours has no weight 'g9'"):
        compare(Net, Images, IMAGES, g9="second.weight")


# A Keras model beside torch's, on torch


def keras_net(padding: str = "same", epsilon: float = 1e-5, approximate: bool = False) -> Any:
    """`Net` in Keras, with its conventions: channels last, "same" padding that is more behind than before."""
    from zoo._lazy import keras

    layers = keras.layers
    image = x = keras.Input((16, 16, 3))
    if padding == "valid":
        x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(8, 3, 2, padding=padding, use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(epsilon=epsilon, momentum=0.9, name="norm")(x)
    x = keras.ops.gelu(x, approximate=approximate)
    y = layers.Conv2D(8, 3, padding="same")(x)
    y = layers.ReLU()(layers.BatchNormalization(epsilon=1e-5, momentum=0.9)(y))
    x = layers.MaxPooling2D(2)(layers.Add()([x, y]))
    x = layers.Dense(12)(layers.Flatten()(x))
    x = layers.Activation("tanh")(layers.LayerNormalization(epsilon=1e-5)(x))
    return keras.Model(image, layers.Dense(5)(x))


@pytest.mark.usefixtures("float64")
def test_a_keras_model_and_its_torch_twin_differ_in_the_biased_variance_alone(compare: Any) -> None:
    result = compare(Net, partial(keras_net, "valid"), IMAGES)
    assert result["differences"] == []
    assert result["ours"]["inputs"] == "channels last"
    layouts = {name: each["layout"] for name, each in result["weights"]["mapping"].items()}
    assert layouts["conv/kernel"] == "transposed (2, 3, 1, 0)"
    assert [step["name"] for step in result["steps"] if not step["holds"]] == ["state"]
    assert "the running variance of ours is the biased one" in result["steps"][-1]["note"]


@pytest.mark.usefixtures("float64")
def test_every_difference_of_a_keras_model_is_listed_at_once(compare: Any) -> None:
    result = compare(Net, partial(keras_net, "same", 1e-3, True), IMAGES)
    found = [(d["cause"], d["confirmed"], d["theirs"]) for d in result["differences"]]
    assert found == [
        ("padding", True, "stem (conv2d)"),
        ("epsilon", True, "norm (batch_norm)"),
        ("gelu", True, "gelu (operation 2)"),
    ]
    assert result["first"]["theirs"] == "stem (conv2d)"


# In processes of their own


SOURCE = """
import torch

def theirs():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 2))

def ours():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU("tanh"), torch.nn.Linear(4, 2))
"""


def test_the_command_says_the_cause_and_exits_with_1(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from zoo.cli import app

    (file := tmp_path / "pair.py").write_text(SOURCE)
    words = ["diff", f"{file}:theirs", f"{file}:ours", "--shape", "5,3", "--out", str(tmp_path / "out"), "-q"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "cause: gelu: theirs applies gelu (erf), ours gelu (tanh)" in done.stdout
    assert (tmp_path / "out" / "diff.json").exists()
    assert "theirs applies gelu (erf)" in (tmp_path / "out" / "diff.html").read_text("utf-8")
    assert (
        CliRunner().invoke(app, ["diff", f"{file}:theirs", f"{file}:theirs", "--shape", "5,3"]).exit_code == 0
    )


@pytest.mark.parametrize(
    ("source", "inputs", "message"),
    [
        ("pair.py:theirs", np.zeros((5, 4)), "theirs: the model does not take inputs of shape"),
        ("pair.py:nothing", np.zeros((5, 3)), "theirs: .*has no 'nothing'"),
    ],
)
def test_a_side_that_fails_is_named_with_its_error(
    tmp_path: Path, source: str, inputs: Any, message: str
) -> None:
    (tmp_path / "pair.py").write_text(SOURCE)
    with pytest.raises(zoo.WrongConfiguration, match=message):
        zoo.diff(str(tmp_path / source), str(tmp_path / "pair.py:ours"), inputs)


def test_wrong_sources_are_refused_before_any_process(tmp_path: Path) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=r"expected FILE\.py:FUNCTION"):
        zoo.diff("pair.py", "pair.py", np.zeros((2, 3)))
    with pytest.raises(zoo.WrongConfiguration, match="no such file"):
        zoo.diff(f"{tmp_path}/none.py:a", f"{tmp_path}/none.py:b", np.zeros((2, 3)))
    with pytest.raises(zoo.WrongConfiguration, match="array of numbers"):
        zoo.diff(Net, Net, np.array(["a"]))


JAX = """
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

class Net(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), strides=2, padding="SAME", use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.deep = nnx.Conv(8, 8, (3, 3), rngs=rngs)
        self.second = nnx.BatchNorm(8, rngs=rngs)
        self.head = nnx.Linear(128, 12, rngs=rngs)
        self.scale = nnx.LayerNorm(12, epsilon=1e-5, rngs=rngs)
        self.last = nnx.Linear(12, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.gelu(self.norm(self.stem(x)), approximate=False)
        x = x + nnx.relu(self.second(self.deep(x)))
        x = nnx.max_pool(x, (2, 2), strides=(2, 2)).reshape(x.shape[0], -1)
        return self.last(jnp.tanh(self.scale(self.head(x))))

class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(8, (3, 3), strides=2, padding=[(1, 1), (1, 1)], use_bias=False)(x)
        x = linen.gelu(linen.BatchNorm(use_running_average=True)(x))
        x = x + linen.relu(linen.BatchNorm(use_running_average=True)(linen.Conv(8, (3, 3))(x)))
        x = linen.max_pool(x, (2, 2), strides=(2, 2)).reshape(x.shape[0], -1)
        return linen.Dense(5)(jnp.tanh(linen.LayerNorm(epsilon=1e-5)(linen.Dense(12)(x))))

def nnx_net():
    return Net(nnx.Rngs(0))

def linen_net():
    return Linen(), Linen().init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))

def function():
    draw = np.random.default_rng(0).normal
    weights = {"a": draw(size=(3, 4)), "b": draw(size=4), "g": draw(size=4), "c": draw(size=(4, 2))}
    def forward(w, x):
        x = x @ w["a"] + w["b"]
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-3) * w["g"]
        return jax.nn.silu(x) @ w["c"]
    return forward, weights
"""


CELLS = """
import jax
import jax.numpy as jnp
from flax import linen, nnx

class Net(nnx.Module):
    def __init__(self, cell, rngs):
        self.rnn, self.out = nnx.RNN(cell(3, 5, rngs=rngs)), nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.rnn(x))

class Linen(linen.Module):
    cell: type

    @linen.compact
    def __call__(self, x):
        return linen.Dense(2)(linen.RNN(self.cell(5))(x))

def optimized():
    return Net(nnx.OptimizedLSTMCell, nnx.Rngs(0))

def separate():
    module = Linen(linen.LSTMCell)
    return module, module.init(jax.random.key(0), jnp.zeros((1, 4, 3), jnp.float32))

def keras_cell():
    import keras
    x = keras.Input((4, 3))
    y = keras.layers.RNN(keras.layers.LSTMCell(5), return_sequences=True)(x)
    return keras.Model(x, keras.layers.Dense(2)(y))
"""


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Any) -> Any:
        return self.out(self.lstm(x)[0])


@pytest.mark.parity
@pytest.mark.parametrize("cell", ["optimized", "separate", "keras_cell"])
def test_an_lstm_of_torch_beside_the_cells_of_others(tmp_path: Path, cell: str) -> None:
    pytest.importorskip("flax")
    (file := tmp_path / "cells.py").write_text(CELLS)
    result = zoo.diff(Recurrent, f"{file}:{cell}", np.random.default_rng(0).normal(size=(2, 4, 3)))
    assert result.equal
    assert result["weights"]["only_theirs"] == ["lstm.bias_hh_l0"]
    steps = next(step for step in result["steps"] if step["name"] == "10 steps")
    assert steps["note"] == "without training what one side alone has: lstm.bias_hh_l0"


@pytest.mark.parity
def test_flax_modules_and_functions_beside_torch(tmp_path: Path) -> None:
    pytest.importorskip("flax")
    (file := tmp_path / "port.py").write_text(JAX)
    causes = lambda result: [(d["cause"], d["confirmed"]) for d in result["differences"]]  # noqa: E731
    assert causes(zoo.diff(Net, f"{file}:nnx_net", IMAGES)) == [("padding", True)]
    assert causes(zoo.diff(Net, f"{file}:linen_net", IMAGES)) == [("gelu", True)]

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n = nn.Linear(3, 4), nn.LayerNorm(4, bias=False)
            self.c = nn.Linear(4, 2, bias=False)

        def forward(self, x: Any) -> Any:
            return self.c(F.silu(self.n(self.a(x))))

    assert causes(zoo.diff(Small, f"{file}:function", IMAGES[0, :, 0, :3])) == [("epsilon", True)]


MODULE = """
import tensorflow as tf

class Linear(tf.Module):
    def __init__(self, size, features):
        super().__init__()
        self.w, self.b = tf.Variable(tf.random.normal((size, features))), tf.Variable(tf.zeros(features))

    def __call__(self, x):
        return tf.einsum("bni,io->bno", x, self.w) + self.b

class Net(tf.Module):
    def __init__(self):
        super().__init__()
        kernels = {"stem": (3, 3, 3, 8), "depth": (3, 3, 8, 1)}
        self.kernels = {name: tf.Variable(tf.ones(shape)) for name, shape in kernels.items()}
        self.bias, self.norm = tf.Variable(tf.zeros(8)), [tf.Variable(tf.ones(8)) for _ in range(2)]
        self.statistics = [tf.Variable(tf.ones(8), trainable=False) for _ in range(2)]
        self.projections = [Linear(8, 8) for _ in range(4)]

    @tf.function
    def __call__(self, x):
        x = tf.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = tf.nn.bias_add(tf.nn.conv2d(x, self.kernels["stem"], 2, "VALID"), self.bias)
        x = tf.nn.depthwise_conv2d(x, self.kernels["depth"], (1, 1, 1, 1), "SAME")
        x = tf.nn.batch_normalization(x, *self.statistics, *self.norm, 1e-3)
        x = tf.nn.max_pool2d(tf.nn.relu(x), 2, 2, "VALID")
        x = tf.reshape(x, (x.shape[0], -1, 8))
        heads = lambda f: tf.transpose(tf.reshape(f(x), (x.shape[0], -1, 2, 4)), (0, 2, 1, 3))
        q, k, v = map(heads, self.projections[:3])
        x = tf.matmul(tf.nn.softmax(tf.matmul(q, k, transpose_b=True) / 2), v)
        return self.projections[3](tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (x.shape[0], -1, 8)))
"""


class WithAttention(nn.Module):
    """A convolution, a depthwise one, batch norm, attention of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.projections = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(F.relu(self.norm(self.depth(self.stem(x)))), 2).flatten(2).transpose(1, 2)
        q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in list(self.projections)[:3])
        x = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        return self.projections[3](x.transpose(1, 2).flatten(2))


@pytest.mark.parity
def test_a_module_of_tensorflow_beside_torch(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    (file := tmp_path / "port.py").write_text(MODULE)
    result = zoo.diff(WithAttention, f"{file}:Net", IMAGES)
    assert [(d["cause"], d["confirmed"]) for d in result["differences"]] == [("epsilon", True)]
    assert result["weights"]["only_theirs"] == result["weights"]["only_ours"] == []


# The parts


def test_a_difference_is_not_hidden_by_an_infinity() -> None:
    from zoo.ladder.causes.compare import difference

    theirs = np.array([np.inf, 1.0, np.nan, 2.0])
    assert difference(theirs, theirs * 1.01).error == pytest.approx(0.01)
    assert difference(theirs, np.array([np.inf, 1.0, 3.0, np.inf])).masks_differ == 2


def test_weights_without_an_operation_are_found_by_name_then_by_shape() -> None:
    from zoo.ports.match import Matching
    from zoo.ports.weights import carry

    draw = np.random.default_rng(0).normal
    theirs = {"a.w": draw(size=(2, 2)), "b.w": draw(size=(2, 2)), "kernel": draw(size=(3, 4))}
    ours = {
        "A/w": np.zeros((2, 2)),
        "B/w": np.zeros((2, 2)),
        "matrix": np.zeros((4, 3)),
        "other": np.zeros(7),
    }
    found = carry(Matching(), theirs, ours, {})
    assert found.guessed == {"A/w": "name", "B/w": "name", "matrix": "shape"}
    np.testing.assert_array_equal(found.weights["matrix"], theirs["kernel"].T)
    assert found.initial == ["other"]
    assert found.layouts["matrix"] == "transposed (1, 0)"


def test_weights_of_one_shape_are_carried_over_in_order_where_both_have_as_many() -> None:
    from zoo.ports.match import Matching
    from zoo.ports.weights import carry

    draw = np.random.default_rng(0).normal
    theirs = {"a": draw(size=(2, 3)), "b": draw(size=(2, 3))}
    found = carry(Matching(), theirs, {"c": np.zeros((2, 3)), "d": np.zeros((2, 3))}, {})
    assert found.guessed == {"c": "shape, in order", "d": "shape, in order"}
    np.testing.assert_array_equal(found.weights["d"], theirs["b"])
    assert carry(Matching(), theirs, {"c": np.zeros((2, 3))}, {}).guessed == {}
