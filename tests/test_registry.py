"""Every model is what its card says; theirs: the papers' counts, and formulas of the layers' shapes."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from conftest import numpy, python
from numpy import ndarray
from scipy import stats

import zoo
from zoo import backends, random, registry
from zoo._lazy import keras
from zoo.ladder import distinct
from zoo.layers import Input, Model, dense, signature

pytestmark = pytest.mark.once  # the ladder compares initial weights and logits

MODELS = registry.list_models()
DISTINCT = distinct(MODELS)  # when they are built small

# Trainable numbers, as the literature counts them: LeCun et al. 1998, section II.B, for lenet5-1998;
# torchvision's documentation for what it has, timm's for vit-ti16 and vit-s16; for alexnet-2012 the sum over
# the paper's layers, half of the channels in the convolutions of two columns.
PARAMETERS = {
    "mlp": (784 + 1) * 256 + (256 + 1) * 128 + (128 + 1) * 10,
    "lenet5": 6 * (25 + 1) + 16 * (6 * 25 + 1) + 120 * (400 + 1) + 84 * (120 + 1) + 10 * (84 + 1),
    "lenet5-1998": 60_000,
    "alexnet": 61_100_840,
    "alexnet-2012": 96 * (121 * 3 + 1) + 256 * (25 * 48 + 1) + 384 * (9 * 256 + 1) + 384 * (9 * 192 + 1)
    + 256 * (9 * 192 + 1) + 4096 * (9216 + 1) + 4096 * (4096 + 1) + 1000 * (4096 + 1),
    "vgg11": 132_863_336, "vgg13": 133_047_848, "vgg16": 138_357_544, "vgg19": 143_667_240,
    "vgg11-bn": 132_868_840, "vgg13-bn": 133_053_736, "vgg16-bn": 138_365_992, "vgg19-bn": 143_678_248,
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "efficientnet-b0": 5_288_548, "efficientnet-b1": 7_794_184, "efficientnet-b2": 9_109_994,
    "efficientnet-b3": 12_233_232, "efficientnet-b4": 19_341_616, "efficientnet-b5": 30_389_784,
    "efficientnet-b6": 43_040_704, "efficientnet-b7": 66_347_960,
    "vit-ti16": 5_717_416, "vit-s16": 22_050_664, "vit-b16": 86_567_656, "vit-b32": 88_224_232,
    "vit-l16": 304_326_632, "vit-l32": 306_535_400,
    # What torch.nn has: Embedding(259, 64), LSTM or GRU(64, 128), Linear; for seq2seq the decoder of Bahdanau
    # et al. 2014, section A.1.2: W, U and v of the attention, a cell over (64 + 256), one bias.
    "lstm": 259 * 64 + 4 * 128 * (64 + 128 + 2) + (128 + 1) * 20,
    "gru": 259 * 64 + 3 * 128 * (64 + 128 + 2) + (128 + 1) * 20,
    "birnn": 259 * 64 + 2 * 4 * 128 * (64 + 128 + 2) + (256 + 1) * 20,
    "seq2seq": 2 * 259 * 64 + 2 * 4 * 128 * (64 + 128 + 2) + 2 * (128 + 1) * 128
    + 128 * (128 + 256 + 1) + 4 * 128 * (64 + 256 + 128 + 1) + (384 + 1) * 259,
    "speech": 32 * (9 + 1) + 32 * (9 * 32 + 1) + 2 * 4 * 128 * (320 + 128 + 2) + (256 + 1) * 11,
}  # fmt: skip
# width c, blocks; of T5 also the heads, the mlp's width, how many kernels lead into it, and tables
BERTS = {"tiny": (128, 2), "mini": (256, 4), "small": (512, 4), "medium": (512, 8), "base": (768, 12)}
GPTS = {"gpt-nano": (48, 3), "gpt-micro": (128, 4), "gpt-mini": (192, 6), "gpt2": (768, 12)}
T5S = {
    "t5-tiny": (256, 4, 4, 1024, 1, 1), "t5-mini": (384, 4, 8, 1536, 1, 1),
    "t5-small": (512, 6, 8, 2048, 1, 1), "t5-v1.1-small": (512, 8, 6, 1024, 2, 2),
}  # fmt: skip
# A block of BERT and GPT-2: 4 (c, c) kernels of attention, 8 of the mlp, 9 biases of c and 4 of a norm.
PARAMETERS |= {
    f"bert-{size}": (30_522 + 512 + 2 + 2) * c + n * (12 * c**2 + 13 * c) + c**2 + c
    for size, (c, n) in BERTS.items()
}
PARAMETERS |= {name: (50_257 + 1024 + 2) * c + n * (12 * c**2 + 13 * c) for name, (c, n) in GPTS.items()}
# Without biases; a decoder's block attends twice and has one norm more; 32 buckets in each stack.
PARAMETERS |= {
    name: tables * 32_128 * c + n * (12 * c * h * 64 + 2 * (into + 1) * c * f + 5 * c) + 2 * c + 2 * 32 * h
    for name, (c, n, h, f, into, tables) in T5S.items()
}
# Output positions x kernel numbers, layer by layer; 60 is the number of connections in the paper's Table I.
MULTIPLY_ADDS = {
    "mlp": 784 * 256 + 256 * 128 + 128 * 10,
    "lenet5": 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10,
    "lenet5-1998": 28 * 28 * 6 * 25 + 10 * 10 * 60 * 25 + 400 * 120 + 120 * 84,
    "alexnet-2012": 55**2 * 96 * 121 * 3 + 27**2 * 256 * 25 * 48
    + 13**2 * 9 * (384 * 256 + 384 * 192 + 256 * 192) + 4096 * (9216 + 4096 + 1000),
    # of one step
    "lstm": 4 * 128 * (64 + 128) + 128 * 20,
    "gru": 3 * 128 * (64 + 128) + 128 * 20,
    "birnn": 2 * 4 * 128 * (64 + 128) + 256 * 20,
    "seq2seq": 2 * 4 * 128 * (64 + 128) + 2 * 128 * 128 + 128 * (128 + 256 + 1) + 4 * 128 * (64 + 256 + 128)
    + 384 * 259,
    "speech": 20 * 9 * 32 + 10 * 9 * 32 * 32 + 2 * 4 * 128 * (320 + 128) + 256 * 11,
}  # fmt: skip
# Of one token that sees one: kernels, q k and weights times v of each attention, the pooler or the head.
MULTIPLY_ADDS |= {f"bert-{size}": n * (12 * c**2 + 2 * c) + c**2 for size, (c, n) in BERTS.items()}
MULTIPLY_ADDS |= {name: n * (12 * c**2 + 2 * c) + 50_257 * c for name, (c, n) in GPTS.items()}
MULTIPLY_ADDS |= {
    name: n * (12 * c * h * 64 + 2 * (into + 1) * c * f + 3 * 2 * h * 64) + 32_128 * c
    for name, (c, n, h, f, into, _) in T5S.items()
}
# Thousand millions, as torchvision 0.28 publishes them to three digits; where its images are of another size
# (efficientnet-b2) or it has no such model, the paper's table: Tan and Le 2019, Touvron et al. 2021 (DeiT).
# tests/test_originals.py counts torchvision's and timm's own to the last one.
GIGA = {
    "alexnet": 0.714, "vgg11": 7.609, "vgg11-bn": 7.609, "vgg13": 11.308, "vgg13-bn": 11.308,
    "vgg16": 15.470, "vgg16-bn": 15.470, "vgg19": 19.632, "vgg19-bn": 19.632, "resnet18": 1.814,
    "resnet34": 3.664, "resnet50": 4.089, "resnet101": 7.801, "resnet152": 11.514, "efficientnet-b0": 0.386,
    "efficientnet-b1": 0.687, "efficientnet-b2": 1.0, "efficientnet-b3": 1.827, "efficientnet-b4": 4.394,
    "efficientnet-b5": 10.266, "efficientnet-b6": 19.068, "efficientnet-b7": 37.746, "vit-ti16": 1.3,
    "vit-s16": 4.6, "vit-b16": 17.564, "vit-b32": 4.409, "vit-l16": 61.555, "vit-l32": 15.378,
}  # fmt: skip

ROUGH = ("efficientnet-b2", "vit-ti16", "vit-s16")  # to one digit


def weights(model: keras.Model) -> dict[str, ndarray]:
    return {v.path: numpy(v) for v in model.variables}


def small(name: str, **changes: Any) -> keras.Model:
    return zoo.build(name, **{**registry.card(name).small, **changes})


# --- cards ---


# A count is arithmetic on shapes: one framework does them all, the others one a builder.
FULL = MODELS if backends.NAMES[0] == backends.current().NAME else list(
    {registry.card(name).builder: name for name in reversed(MODELS)}.values()
)  # fmt: skip


@pytest.fixture(scope="module", params=FULL)
def full(request: pytest.FixtureRequest) -> keras.Model:
    """Each model at full size, its weights not drawn; one after another: they would not fit into memory."""
    with patch.object(random.Initializer, "draw", lambda self, key, shape, out: out):
        return zoo.build(request.param)


def test_every_model_has_a_witness_here() -> None:
    assert set(MODELS) == set(PARAMETERS) == {*MULTIPLY_ADDS, *GIGA}


def test_a_full_size_model_has_the_papers_number_of_parameters(full: keras.Model) -> None:
    assert sum(int(np.prod(v.shape)) for v in full.trainable_variables) == PARAMETERS[full.name]
    assert zoo.card(full.name).parameters == PARAMETERS[full.name]


def test_a_full_size_model_does_the_multiply_adds_that_its_shapes_say(full: keras.Model) -> None:
    found = signature.multiply_adds(full)
    assert zoo.card(full.name).multiply_adds == found
    if full.name in MULTIPLY_ADDS:
        assert found == MULTIPLY_ADDS[full.name]
    else:
        published = GIGA[full.name]
        assert round(found / 1e9, 3 if full.name not in ROUGH else 1) == published


def test_the_cards_input_is_the_models(full: keras.Model) -> None:
    inputs = [tuple(tensor.shape) for tensor in full.inputs]
    assert inputs == [(None, *zoo.card(full.name).input)] * len(inputs)


def test_every_weight_has_a_name_of_its_own(full: keras.Model) -> None:
    paths = [v.path for v in full.variables]
    assert len(set(paths)) == len(paths)


# Araujo, Norris and Sim 2019, "Computing receptive fields of convolutional neural networks", table of
# https://distill.pub/2019/computing-receptive-fields, for those that stride where ours do.
RECEPTIVE_FIELDS = {"alexnet": 195, "vgg16": 212}


def test_a_cards_receptive_field_follows_from_the_layers(full: keras.Model) -> None:
    """Eq. 2 of the same: r = 1 + sum (k - 1) j, where j, the jump, is the product of the strides before.

    Along the longest path; what a whole map's mean adds (squeeze and excitation) is left out.
    """
    card = zoo.card(full.name)
    if card.tokens is not None:
        assert card.tokens == full.get_layer("position_embedding").output.shape[1]
    if card.receptive_field is None:
        return
    fields: dict[int, tuple[int, int]] = {}
    last = (0, 0)
    for layer in full.operations:
        inputs = [id(x) for node in layer._inbound_nodes for x in node.input_tensors]
        field, jump = max((fields[i] for i in inputs if i in fields), default=(1, 1))
        if type(layer).__name__ in ("Conv", "MaxPool"):
            field, jump = field + (layer.size - 1) * jump, jump * layer.stride
        fields[id(layer.output)] = field, jump
        if len(layer.output.shape) == 4 and layer.output.shape[1] > 1:
            last = field, jump
    assert last[0] == card.receptive_field
    assert last[0] == RECEPTIVE_FIELDS.get(full.name, last[0])


# --- build ---


@pytest.mark.parametrize("name", DISTINCT)
def test_a_model_gives_a_logit_a_class_for_each_example(name: str) -> None:
    model = small(name)
    changes = registry.card(name).small
    logits = numpy(model(zoo.example(model, batch=3)))
    steps = {"speech": (3,)}.get(name, ())  # as long as the example, or a quarter
    if registry.card(name).builder.__name__ in ("seq2seq", "bert", "gpt", "t5"):
        steps = (12,)
    classes = changes.get("classes", changes.get("vocabulary", 10))
    assert logits.shape == (3, *steps, classes)
    assert not np.allclose(logits.sum(-1), 1)  # not probabilities


def test_classes_are_as_many_as_were_asked_for() -> None:
    assert small("lenet5", classes=7).output_shape == (None, 7)
    assert small("mlp", classes=2).output_shape == (None, 2)


@pytest.mark.parametrize("name", DISTINCT)
def test_the_same_seed_builds_the_same_bits(name: str) -> None:
    first, second = weights(small(name, seed=3)), weights(small(name, seed=3))
    assert first.keys() == second.keys()
    assert all(first[path].tobytes() == second[path].tobytes() for path in first)


@pytest.mark.parametrize("name", DISTINCT)
def test_another_seed_builds_other_kernels(name: str) -> None:
    first, second = weights(small(name, seed=3)), weights(small(name, seed=4))
    kernels = [path for path in first if path.endswith("kernel")]
    assert kernels
    for path in kernels:
        assert abs(np.corrcoef(first[path].ravel(), second[path].ravel())[0, 1]) < 5 / first[path].size ** 0.5


def test_without_a_seed_it_is_0() -> None:
    first, second = weights(small("lenet5")), weights(small("lenet5", seed=0))
    assert all(np.array_equal(first[path], second[path]) for path in first)


def test_what_was_built_before_changes_no_weight() -> None:
    alone = weights(small("lenet5", seed=3))
    for name in DISTINCT:
        small(name, seed=5)
    after = weights(small("lenet5", seed=3))
    assert alone.keys() == after.keys()
    assert all(np.array_equal(alone[path], after[path]) for path in alone)


@pytest.mark.parametrize("asked", ["lenet5-1998", "LeNet5-1998", "lenet5_1998", "LENET-5_1998", "lenet51998"])
def test_names_ignore_case_hyphen_and_underscore(asked: str) -> None:
    assert zoo.card(asked).name == "lenet5-1998"
    assert small(asked).name == "lenet5-1998"


@pytest.mark.parametrize(("family", "default"), [("lenet", "lenet5"), ("LeNet", "lenet5"), ("mlp", "mlp")])
def test_a_familys_name_is_its_default_model(family: str, default: str) -> None:
    assert zoo.card(family).name == default


def test_list_models_takes_a_shell_pattern() -> None:
    assert zoo.list_models("lenet*") == ["lenet5", "lenet5-1998"]
    assert zoo.list_models("LENET5") == ["lenet5"]
    assert zoo.list_models("nothing*") == []
    assert zoo.list_models() == MODELS


# --- errors ---


@pytest.mark.parametrize("call", [zoo.card, zoo.build])
def test_an_unknown_model_gets_the_nearest(call: Any) -> None:
    with pytest.raises(zoo.UnknownModel, match=rf'"?lenett5\W.*nearest: .*lenet5.*all {len(MODELS)}'):
        call("lenett5")


def test_a_name_near_nothing_gets_all_there_are() -> None:
    with pytest.raises(zoo.UnknownModel, match=r"there are: .*lenet5.*mlp"):
        zoo.card("zzzzzz")


def test_an_unknown_model_can_be_caught_as_a_lookup_error() -> None:
    with pytest.raises(LookupError):
        zoo.card("lenett5")


def test_an_unknown_argument_gets_the_nearest_and_all_there_are() -> None:
    with pytest.raises(zoo.WrongConfiguration) as caught:
        zoo.build("lenet5", clases=10)
    message = str(caught.value)
    assert message.startswith("lenet5 takes no argument 'clases'; nearest: classes")
    assert all(text in message for text in ("activation='tanh'", "image_size=32", "channels=1", "classes=10"))


@pytest.fixture
def calls(registering: None) -> list[dict[str, Any]]:  # noqa: ARG001
    """A registered model "probe", of an argument of each kind, that keeps what it was built with."""
    seen: list[dict[str, Any]] = []

    def builder(
        widths: tuple[int, ...] = (2,),
        *,
        size: int = 4,
        rate: float = 0.5,
        f: str = "relu",
        bias: bool = True,
    ) -> keras.Model:
        seen.append({"widths": widths, "size": size, "rate": rate, "f": f, "bias": bias})
        x = Input((size,))
        return Model(x, dense(x, 3, use_bias=bias, name="head"))

    # Builders live in modules whose annotations are strings, and those are what the registry reads.
    builder.__annotations__ = {
        "widths": "tuple[int, ...]", "size": "int", "rate": "float", "f": "str", "bias": "bool",
    }  # fmt: skip
    about = {"paper": "", "url": "", "year": 1998, "idea": "", "task": "digits", "recipe": "mlp"}
    registry.register("probe", builder, parameters=15, multiply_adds=12, about=about, size=5)
    return seen


def test_a_variants_changes_are_its_defaults(calls: list) -> None:
    assert zoo.build("probe").input_shape == (None, 5)
    assert zoo.card("probe").arguments["size"] == 5
    assert zoo.build("probe", size=7).input_shape == (None, 7)
    assert [call["size"] for call in calls] == [5, 7]


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("size", 0, "an integer, 1 or more"),
        ("size", -3, "an integer, 1 or more"),
        ("size", 2.0, "an integer, 1 or more"),
        ("size", True, "an integer, 1 or more"),
        ("size", "4", "an integer, 1 or more"),
        ("size", None, "an integer, 1 or more"),
        ("widths", 4, "a tuple of integers, 1 or more each"),
        ("widths", (4, 0), "a tuple of integers, 1 or more each"),
        ("widths", (4, "4"), "a tuple of integers, 1 or more each"),
        ("rate", "0.5", "a number"),
        ("rate", True, "a number"),
        ("f", 3, "a string"),
        ("bias", 1, "True or False"),
        ("seed", -1, "an integer, 0 or more"),
        ("seed", 1.5, "an integer, 0 or more"),
    ],
)
def test_a_wrong_value_is_refused_by_name_before_anything_is_built(
    calls: list, argument: str, value: Any, expected: str
) -> None:
    with pytest.raises(zoo.WrongConfiguration) as caught:
        zoo.build("probe", **{argument: value})
    assert str(caught.value) == f"probe: {argument}={value!r}; expected {expected}"
    assert not calls


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 7},
        {"widths": [3, 4]},
        {"widths": ()},
        {"rate": 1},
        {"rate": 0.25},
        {"f": "tanh"},
        {"bias": False},
    ],
)
def test_a_right_value_reaches_the_builder(calls: list, changes: dict[str, Any]) -> None:
    zoo.build("probe", **changes)
    assert calls[0].items() >= changes.items()


def test_a_name_can_be_registered_once(calls: list) -> None:  # noqa: ARG001
    with pytest.raises(ValueError, match="two models are named 'probe'"):
        registry.register("probe", lambda: None, parameters=0, multiply_adds=0, about={})


MODELS_OUT_OF_ORDER = """
import zoo.models.vit
import zoo
print(*zoo.list_models())
"""


def test_the_order_of_the_list_is_not_that_of_imports() -> None:
    assert python(MODELS_OUT_OF_ORDER).split() == zoo.list_models()
    assert zoo.list_models()[0] == "mlp"


# --- examples ---


@pytest.mark.parametrize("name", DISTINCT)
def test_an_example_is_a_batch_that_fits(name: str) -> None:
    model = small(name)
    arrays = zoo.example(model, batch=5)
    arrays = arrays if isinstance(arrays, dict) else {model.inputs[0].name: arrays}
    for tensor in model.inputs:
        x = arrays[tensor.name]
        numbers = any(word in tensor.name for word in ("token", "segment", "mask"))
        assert x.dtype == ("int32" if numbers else "float32")
        assert x.shape[0] == 5
        assert all(n in (None, m) for n, m in zip(tensor.shape[1:], x.shape[1:], strict=True))


@pytest.mark.parametrize("name", ["lstm", "seq2seq"])
def test_an_example_of_tokens_is_in_the_vocabulary_and_padded_behind(name: str) -> None:
    """Theirs: every token of the first text is real, and no text is empty or goes on after its padding."""
    arrays = zoo.example(small(name, vocabulary=5), batch=200)
    for x in arrays.values() if isinstance(arrays, dict) else [arrays]:
        assert set(np.unique(x)) == {0, 1, 2, 3, 4}
        assert (x[0] > 0).all()
        assert (x[:, 0] > 0).all()
        assert not ((x[:, :-1] == 0) & (x[:, 1:] > 0)).any()


def test_an_example_is_standard_normal_and_keyed_by_its_seed() -> None:
    model = zoo.build("lenet5")
    first, again, other = (zoo.example(model, 16, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert stats.kstest(first.ravel(), stats.norm.cdf).pvalue > 1e-3
    assert stats.pearsonr(first.ravel(), other.ravel()).pvalue > 1e-3


def test_an_example_does_not_depend_on_the_models_built_before(tmp_path: Path) -> None:
    """Whose inputs Keras counts; nor on whether a model was saved, which names them otherwise."""
    first, second = small("lenet5"), small("lenet5")
    first.save(tmp_path / "model.keras")
    back = keras.models.load_model(tmp_path / "model.keras")
    for other in (second, back):
        assert np.array_equal(zoo.example(other, 4), zoo.example(first, 4))


def test_an_example_of_two_inputs_without_names_is_two_draws() -> None:
    a, b = Input((3,)), Input((3,))
    first, second = zoo.example(Model([a, b], a + b), batch=4).values()
    assert not np.array_equal(first, second)


def test_an_example_of_two_inputs_is_a_dict_by_their_names() -> None:
    a, b = Input((3,), name="a"), Input((3,), name="b")
    x = zoo.example(Model([a, b], a + b), batch=4)
    assert {name: array.shape for name, array in x.items()} == {"a": (4, 3), "b": (4, 3)}
    assert not np.array_equal(x["a"], x["b"])
