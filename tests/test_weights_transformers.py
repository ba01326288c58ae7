"""Weights of BERT, GPT-2, T5, minGPT and nanoGPT: by names and arrangements, and against the originals.

The originals are transformers' own classes, their weights random, and for minGPT and nanoGPT, which are no
packages, modules written here by their published structure. On the framework of KERAS_BACKEND, in float32 and
in float64; JAX needs JAX_ENABLE_X64=1 for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from conftest import numpy
from numpy import ndarray

import zoo
from zoo import backends, layers, random
from zoo._lazy import keras, ops
from zoo.weights import SCHEMES, Layout, Row
from zoo.weights.layouts import DENSE, EMBEDDING, SAME, Kind

HERE = backends.current()
BOUNDS = {"float32": 1e-5, "float64": 1e-12}  # of the largest value
BATCH, LENGTH, WRITTEN, VOCABULARY, POSITIONS, CLASSES = 3, 9, 7, 50, 24, 5

BERT = {"width": 32, "depth": 2, "heads": 2, "vocabulary": VOCABULARY, "positions": POSITIONS}
GPT = BERT
T5 = {"width": 32, "depth": 2, "heads": 2, "head_width": 8, "mlp_width": 48, "vocabulary": VOCABULARY}

Arrays = Mapping[str, ndarray]


def bert(head: str, *, seed: int = 0, classes: int = CLASSES) -> keras.Model:
    return zoo.build("bert-tiny", head=head, classes=classes, seed=seed, **BERT)


def gpt(*, seed: int = 0, **changes: Any) -> keras.Model:
    return zoo.build("gpt-mini", seed=seed, **GPT, **changes)


def t5(version: str, *, seed: int = 0) -> keras.Model:
    return zoo.build({"1.0": "t5-tiny", "1.1": "t5-v1.1-small"}[version], seed=seed, **T5)


def stirred(model: keras.Model) -> keras.Model:
    """The same, no bias 0 and no scale 1 any more."""
    for v in model.trainable_variables:
        noise = random.generator("test", v.path).normal(0, 0.2, v.shape)
        v.assign(numpy(v) + noise.astype(numpy(v).dtype))
    return model


def values(model: keras.Model) -> dict[str, ndarray]:
    return {v.path: np.array(numpy(v)) for v in model.trainable_variables}


def assert_equal(ours: Arrays, theirs: Arrays) -> None:
    assert list(ours) == list(theirs)
    for name, x in ours.items():
        np.testing.assert_array_equal(x, theirs[name], err_msg=name)


def exported(model: keras.Model, layout: str, folder: Path) -> dict[str, ndarray]:
    zoo.weights.save(model, folder / "exported.safetensors", layout)
    return safetensors.numpy.load_file(folder / "exported.safetensors")


def renamed(arrays: Arrays, *pairs: tuple[str, str]) -> dict[str, ndarray]:
    found = {}
    for name, x in arrays.items():
        for old, new in pairs:
            name = name.replace(old, new)
        found[name] = x
    return found


def without(arrays: Arrays, *parts: str) -> dict[str, ndarray]:
    return {name: x for name, x in arrays.items() if not any(part in name for part in parts)}


def refused(model: keras.Model, arrays: Arrays, *said: str, **how: Any) -> None:
    """The error says so, and the model is as it was."""
    before = values(model)
    with pytest.raises(zoo.WeightsMismatch) as caught:
        zoo.weights.from_torch(model, arrays, **how)
    for text in (*said, "Nothing was loaded"):
        assert text in str(caught.value)
    assert_equal(values(model), before)


# --- there and back, without the originals ---

MODELS: dict[str, tuple[Callable[..., keras.Model], tuple[str, ...]]] = {
    **{
        f"bert, {head}": (lambda head=head, **seed: bert(head, **seed), ("transformers",))
        for head in ("encoder", "masked_lm", "next_sentence", "pretraining", "classifier", "tagger", "span")
    },
    "gpt": (gpt, ("transformers", "nanogpt", "mingpt")),
    "t5": (lambda **seed: t5("1.0", **seed), ("transformers",)),
    "t5 1.1": (lambda **seed: t5("1.1", **seed), ("transformers",)),
}
PAIRS = [(name, layout) for name, (_, names) in MODELS.items() for layout in names]


@pytest.mark.once
@pytest.mark.parametrize(("name", "layout"), PAIRS)
def test_what_is_exported_is_recognized_and_loaded_bit_for_bit(
    name: str, layout: str, tmp_path: Path
) -> None:
    """GPT-2's three layouts have the same names; shapes tell them, and minGPT's masks."""
    build, _ = MODELS[name]
    ours, other = stirred(build(seed=1)), build(seed=2)
    arrays = exported(ours, layout, tmp_path)
    done = zoo.weights.from_torch(other, arrays)
    masks = sum(key.endswith(".attn.bias") for key in arrays)
    assert (done.layout, done.tensors, done.notes) == (layout, len(arrays) - masks, ())
    assert_equal(values(ours), values(other))


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "word", "copies"),
    [
        ("bert, masked_lm", "bert.embeddings.word_embeddings.weight", ["cls.predictions.decoder.weight"]),
        ("bert, pretraining", "cls.predictions.bias", ["cls.predictions.decoder.bias"]),
        ("gpt", "transformer.wte.weight", ["lm_head.weight"]),
        (
            "t5",
            "shared.weight",
            ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"],
        ),
        ("t5 1.1", "shared.weight", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]),
    ],
)
def test_a_tied_array_is_written_under_every_name_and_read_under_any(
    name: str, word: str, copies: list[str], tmp_path: Path
) -> None:
    build, (layout, *_) = MODELS[name]
    ours = stirred(build(seed=1))
    arrays = exported(ours, layout, tmp_path)
    tied = [word, *copies]
    for copy in copies:
        np.testing.assert_array_equal(arrays[copy], arrays[word])
    for only in tied:
        other = build(seed=2)
        zoo.weights.from_torch(other, {key: x for key, x in arrays.items() if key == only or key not in tied})
        assert_equal(values(ours), values(other))
    other = build(seed=2)
    refused(other, {key: x for key, x in arrays.items() if key not in tied}, f"1 tensor is missing: {word}")
    for copy in copies:
        changed = arrays[copy].copy()
        changed.flat[-1] += 1
        refused(
            other, {**arrays, copy: changed}, f"{copy} differs from {word}, and {other.name} has one array"
        )


# --- BERT ---


@pytest.mark.once
@pytest.mark.parametrize("head", ["encoder", "pretraining", "tagger"])
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_the_trunks_names_are_read_with_their_prefix_and_without(
    head: str, prefix: str, tmp_path: Path
) -> None:
    ours, other = stirred(bert(head, seed=1)), bert(head, seed=2)
    arrays = exported(ours, "transformers", tmp_path)
    written = "" if head == "encoder" else "bert."
    trunk = {name: x for name, x in arrays.items() if not name.startswith(("cls.", "classifier."))}
    assert all(
        name.startswith((f"{written}embeddings.", f"{written}encoder.", f"{written}pooler."))
        for name in trunk
    )
    moved = {prefix + name.removeprefix(written): x for name, x in trunk.items()}
    zoo.weights.from_torch(other, moved | {name: x for name, x in arrays.items() if name not in trunk})
    assert_equal(values(ours), values(other))


@pytest.mark.once
def test_a_file_of_googles_is_read(tmp_path: Path) -> None:
    """bert-base-uncased: norms have gamma and beta, places are stored, and the decoder has no bias."""
    ours, other = stirred(bert("pretraining", seed=1)), bert("pretraining", seed=2)
    arrays = exported(ours, "transformers", tmp_path)
    old = renamed(
        without(arrays, "decoder.bias"),
        ("LayerNorm.weight", "LayerNorm.gamma"),
        ("LayerNorm.bias", "LayerNorm.beta"),
    )
    assert sum("gamma" in key for key in old) == 6
    old["bert.embeddings.position_ids"] = np.arange(POSITIONS)[None]
    zoo.weights.from_torch(other, old)
    assert_equal(values(ours), values(other))


@pytest.mark.once
def test_skip_takes_the_trunk_and_the_pooler_of_another_heads_file(tmp_path: Path) -> None:
    ours, model = stirred(bert("pretraining", seed=1)), stirred(bert("classifier", seed=2))
    before, arrays = values(model), exported(ours, "transformers", tmp_path)
    refused(model, arrays, "classifier.weight", 'head="skip" does not load its heads', "pretraining")
    done = zoo.weights.from_torch(model, arrays, head="skip")
    assert done.tensors == len(without(arrays, "cls."))
    for path, x in values(model).items():
        np.testing.assert_array_equal(x, before[path] if "head" in path else values(ours)[path], err_msg=path)


@pytest.mark.once
def test_skip_leaves_a_language_models_own_head_too(tmp_path: Path) -> None:
    ours, model = stirred(bert("masked_lm", seed=1)), stirred(bert("masked_lm", seed=2))
    before = values(model)
    zoo.weights.from_torch(model, exported(ours, "transformers", tmp_path), head="skip")
    for path, x in values(model).items():
        own = path.startswith("masked_lm")
        np.testing.assert_array_equal(x, before[path] if own else values(ours)[path], err_msg=path)


@pytest.mark.once
@pytest.mark.parametrize("head", ["masked_lm", "tagger", "span"])
def test_a_pooler_that_is_of_no_use_stays_in_the_file_and_one_that_is_missing_is_an_error(
    head: str, tmp_path: Path
) -> None:
    model, pooler = bert(head, seed=1), {"bert.pooler.dense.weight": np.ones((32, 32), np.float32)}
    arrays = exported(model, "transformers", tmp_path)
    zoo.weights.from_torch(model, arrays | pooler)
    classifier = bert("classifier")
    arrays = exported(classifier, "transformers", tmp_path)
    refused(classifier, without(arrays, "pooler"), "2 tensors are missing: bert.pooler.dense.weight")


@pytest.mark.once
def test_an_encoder_has_no_head_to_skip(tmp_path: Path) -> None:
    model = bert("encoder")
    arrays = without(exported(model, "transformers", tmp_path), "pooler")
    with pytest.raises(
        zoo.WeightsMismatch, match=r"are missing: pooler\.dense\.weight.*Nothing was loaded\.$"
    ):
        zoo.weights.from_torch(model, arrays)


@pytest.mark.once
def test_a_head_of_other_classes_is_left_out_and_this_is_said(tmp_path: Path) -> None:
    ours, model = bert("classifier", seed=1, classes=7), bert("classifier", seed=2)
    done = zoo.weights.from_torch(model, exported(ours, "transformers", tmp_path))
    assert done.notes == ("the head was not loaded: it has 7 classes, the model's 5",)


@pytest.mark.once
def test_another_vocabulary_is_an_error_that_says_both(tmp_path: Path) -> None:
    larger = zoo.build("bert-tiny", head="masked_lm", **{**BERT, "vocabulary": 60})
    arrays = exported(larger, "transformers", tmp_path)
    word = "bert.embeddings.word_embeddings.weight"
    refused(bert("masked_lm"), arrays, f"{word} is (60, 32), bert-tiny needs (50, 32)")


# --- GPT-2, minGPT, nanoGPT ---


@pytest.mark.once
@pytest.mark.parametrize(
    ("layout", "transposed"), [("transformers", False), ("nanogpt", True), ("mingpt", True)]
)
def test_kernels_lie_as_each_keeps_them_and_query_key_and_value_are_one(
    layout: str, transposed: bool, tmp_path: Path
) -> None:
    model = stirred(gpt())
    arrays = exported(model, layout, tmp_path)
    stacked = arrays["transformer.h.1.attn.c_attn.weight"]
    assert stacked.shape == ((96, 32) if transposed else (32, 96))
    parts = np.split(stacked, 3, axis=0 if transposed else 1)
    biases = np.split(arrays["transformer.h.1.attn.c_attn.bias"], 3)
    for part, kernel, bias in zip(("query", "key", "value"), parts, biases, strict=True):
        layer = model.get_layer(f"block2_attention_{part}")
        np.testing.assert_array_equal(numpy(layer.kernel), kernel.T if transposed else kernel)
        np.testing.assert_array_equal(numpy(layer.bias), bias)
    square = arrays["transformer.h.0.attn.c_proj.weight"]  # its shape would not tell
    ours = numpy(model.get_layer("block1_attention_output").kernel)
    np.testing.assert_array_equal(ours, square.T if transposed else square)


@pytest.mark.once
def test_a_file_of_the_hubs_gpt2_is_read(tmp_path: Path) -> None:
    """It has no prefix, no head, and masks in every block."""
    ours, other = stirred(gpt(seed=1)), gpt(seed=2)
    arrays = renamed(without(exported(ours, "transformers", tmp_path), "lm_head"), ("transformer.", ""))
    for i in range(2):
        arrays[f"h.{i}.attn.bias"] = np.tril(np.ones((1, 1, POSITIONS, POSITIONS), np.float32))
        arrays[f"h.{i}.attn.masked_bias"] = np.array(-1e4, np.float32)
    done = zoo.weights.from_torch(other, arrays)
    assert (done.layout, done.tensors) == ("transformers", 28)
    assert_equal(values(ours), values(other))


@pytest.mark.once
def test_an_older_file_with_a_prefix_and_masks_is_not_taken_for_mingpts(tmp_path: Path) -> None:
    ours, other = stirred(gpt(seed=1)), gpt(seed=2)
    arrays = exported(ours, "transformers", tmp_path)
    for i in range(2):
        arrays[f"transformer.h.{i}.attn.bias"] = np.ones((1, 1, POSITIONS, POSITIONS), np.float32)
    assert zoo.weights.from_torch(other, arrays).layout == "transformers"
    assert_equal(values(ours), values(other))


@pytest.mark.once
def test_mingpts_mask_is_one_where_a_token_is_seen(tmp_path: Path) -> None:
    arrays = exported(gpt(), "mingpt", tmp_path)
    for i in range(2):
        mask = arrays[f"transformer.h.{i}.attn.bias"]
        assert mask.shape == (1, 1, POSITIONS, POSITIONS)
        assert all(x == (key <= query) for (_, _, query, key), x in np.ndenumerate(mask))


@pytest.mark.once
def test_a_compiled_nanogpts_names_are_read(tmp_path: Path) -> None:
    ours, other = stirred(gpt(seed=1)), gpt(seed=2)
    arrays = {f"_orig_mod.{name}": x for name, x in exported(ours, "nanogpt", tmp_path).items()}
    done = zoo.weights.from_torch(other, arrays)
    assert (done.layout, done.tensors) == ("nanogpt", len(arrays))
    assert_equal(values(ours), values(other))


@pytest.mark.once
def test_a_nanogpt_without_biases_is_refused_and_zeros_are_advised(tmp_path: Path) -> None:
    arrays = exported(gpt(seed=1), "nanogpt", tmp_path)
    model = gpt(seed=2)
    bare = without(arrays, ".bias")
    refused(model, bare, "tensors are missing", "bias=False", "zeros give the same numbers")
    zeros = {name: np.zeros_like(x) for name, x in arrays.items() if name.endswith(".bias")}
    zoo.weights.from_torch(model, bare | zeros)


# --- T5 ---


@pytest.mark.once
def test_the_gate_of_t5_1_1_is_wi_0(tmp_path: Path) -> None:
    model = stirred(t5("1.1"))
    arrays = exported(model, "transformers", tmp_path)
    for stack, place in (("encoder", 1), ("decoder", 2)):
        for part, name in (("gate", "wi_0"), ("in", "wi_1"), ("out", "wo")):
            theirs = arrays[f"{stack}.block.1.layer.{place}.DenseReluDense.{name}.weight"]
            layer = model.get_layer(f"{stack}_block2_mlp_{part}")
            np.testing.assert_array_equal(numpy(layer.kernel), theirs.T)


@pytest.mark.once
def test_the_positions_that_nothing_uses_are_left_in_the_first_files(tmp_path: Path) -> None:
    ours, other = stirred(t5("1.0", seed=1)), t5("1.0", seed=2)
    arrays = exported(ours, "transformers", tmp_path)
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    zoo.weights.from_torch(other, {**arrays, name: np.ones((32, 2), np.float32)})
    assert_equal(values(ours), values(other))
    refused(other, {**arrays, name.replace("block.0", "block.1"): np.ones((32, 2))}, "1 tensor is unexpected")


@pytest.mark.once
def test_a_t5_with_a_head_of_its_own_is_none_with_a_tied_one(tmp_path: Path) -> None:
    tied, untied = t5("1.0", seed=1), zoo.build("t5-tiny", tied=False, seed=2, **T5)
    arrays = exported(untied, "transformers", tmp_path)
    refused(tied, arrays, "lm_head.weight differs from shared.weight, and t5-tiny has one array for both")
    arrays = without(exported(tied, "transformers", tmp_path), "lm_head")
    refused(untied, arrays, "1 tensor is missing: lm_head.weight", 'head="skip"')


# --- tables of one's own ---


@pytest.mark.once
def test_a_row_may_spell_names_in_several_ways_and_keep_copies_and_count_for_some_models_alone(
    tmp_path: Path,
) -> None:
    tokens = layers.Input((None,), dtype="int32")
    x = layers.embedding(tokens, 5, 4, name="words")
    model = layers.Model(tokens, layers.dense(x, 3, name="top"))
    table = Layout(
        "mine",
        "*",
        [
            Row("words", "never", EMBEDDING, where="elsewhere"),
            Row("words", "(a|b).(c|)", EMBEDDING, copies=["(d|e)"], where="top"),
            Row("top", "top", DENSE),
        ],
    )
    plan, _ = table.plan(model)
    assert plan["a.c.weight"].names == ("a.c.weight", "a..weight", "b.c.weight", "b..weight")
    top = {"top.weight": np.ones((3, 4), np.float32), "top.bias": np.ones(3, np.float32)}
    words = np.arange(20, dtype=np.float32).reshape(5, 4)
    for given in ({"b.c.weight": words}, {"a..weight": words, "e.weight": words}, {"e.weight": words}):
        zoo.weights.from_torch(model, {**top, **given}, table)
        np.testing.assert_array_equal(numpy(model.get_layer("words").table), words)
        model.get_layer("words").table.assign(0 * words)
    zoo.weights.save(model, tmp_path / "x.npz", table)
    with np.load(tmp_path / "x.npz") as file:
        assert sorted(file.files) == ["a.c.weight", "d.weight", "top.bias", "top.weight"]


@pytest.mark.once
def test_a_kind_may_have_arrays_that_are_theirs_alone(tmp_path: Path) -> None:
    model = layers.Model(x := layers.Input((4,)), layers.dense(x, 3, name="top"))
    arrays = {"kernel": ("k", SAME), "bias": ("b", SAME)}
    kind = Kind(arrays, constants={"n": lambda model: np.array(len(model.layers), np.float32)})
    table = Layout("mine", "*", [Row("top", "top.", kind)])
    zoo.weights.save(model, tmp_path / "x.npz", table)
    with np.load(tmp_path / "x.npz") as file:
        written = {name: file[name] for name in file.files}
    assert written["top.n"] == 2
    assert zoo.weights.from_torch(model, written, table).tensors == 2
    assert zoo.weights.from_torch(model, without(written, "top.n"), table).tensors == 2


# --- the originals ---


@pytest.fixture(scope="session")
def transformers() -> Any:
    import_module("zoo.benchmarks.references.vision_torch")  # before torchvision, which transformers loads
    return import_module("transformers")


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch, transformers: Any, float64: None) -> None:
    del float64  # conftest's, as far as it goes
    import torch

    def forward(self: Any, x: Any) -> Any:
        """T5's norm, which transformers computes in float32 whatever comes."""
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(transformers.models.t5.modeling_t5.T5LayerNorm, "forward", forward)


def their_bert(name: str, **changes: Any) -> Any:
    import transformers

    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        vocab_size=VOCABULARY, max_position_embeddings=POSITIONS, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, attn_implementation="eager", **{"num_labels": CLASSES, **changes},
    )  # fmt: skip
    return getattr(transformers, name)(config)


def their_gpt2(name: str = "GPT2LMHeadModel") -> Any:
    import transformers

    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, vocab_size=VOCABULARY, n_positions=POSITIONS, attn_pdrop=0.0,
        embd_pdrop=0.0, resid_pdrop=0.0, bos_token_id=0, eos_token_id=0, attn_implementation="sdpa",
    )  # fmt: skip
    return getattr(transformers, name)(config)


def their_t5(version: str) -> Any:
    import torch
    import transformers

    newer = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if version == "1.1" else {}
    config = transformers.T5Config(
        d_model=32, num_layers=2, num_heads=2, d_kv=8, d_ff=48, vocab_size=VOCABULARY, dropout_rate=0.0,
        attn_implementation="eager", **newer,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config)
    if newer:  # transformers ties the head until a file brings another
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def karpathys(*, tied: bool = True, masks: bool = False, exact: bool = False) -> Any:
    """minGPT's modules (with masks, its head untied) or nanoGPT's, by their names; `exact` is its GELU."""
    import torch
    from torch import nn

    def attention() -> Any:
        found = nn.ModuleDict({"c_attn": nn.Linear(32, 96), "c_proj": nn.Linear(32, 32)})
        if masks:
            found.register_buffer("bias", torch.ones(1, 1, POSITIONS, POSITIONS).tril())
        return found

    def block() -> Any:
        mlp = nn.ModuleDict({"c_fc": nn.Linear(32, 128), "c_proj": nn.Linear(128, 32)})
        return nn.ModuleDict(
            {"ln_1": nn.LayerNorm(32), "attn": attention(), "ln_2": nn.LayerNorm(32), "mlp": mlp}
        )

    trunk = {"wte": nn.Embedding(VOCABULARY, 32), "wpe": nn.Embedding(POSITIONS, 32)}
    trunk |= {"h": nn.ModuleList([block(), block()]), "ln_f": nn.LayerNorm(32)}
    head = nn.Linear(32, VOCABULARY, bias=False)
    model: Any = nn.ModuleDict({"transformer": nn.ModuleDict(trunk), "lm_head": head})
    if tied:
        head.weight = trunk["wte"].weight

    def forward(token_ids: Any) -> Any:
        x = model["transformer"]["wte"](token_ids)
        n = x.shape[1]
        x = x + model["transformer"]["wpe"](torch.arange(n))
        for layer in model["transformer"]["h"]:
            stacked = layer["attn"]["c_attn"](layer["ln_1"](x)).split(32, dim=-1)
            q, k, v = (part.unflatten(-1, (2, 16)).transpose(1, 2) for part in stacked)  # (b, heads, n, d)
            scores = q @ k.mT / 4
            scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf"))
            x = x + layer["attn"]["c_proj"]((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
            y = layer["mlp"]["c_fc"](layer["ln_2"](x))
            y = nn.functional.gelu(y, approximate="none" if exact else "tanh")
            x = x + layer["mlp"]["c_proj"](y)
        return model["lm_head"](model["transformer"]["ln_f"](x))

    model.forward = forward
    return model


THEIRS = {
    "token_ids": "input_ids", "padding_mask": "attention_mask", "segment_ids": "token_type_ids",
    "decoder_token_ids": "decoder_input_ids", "decoder_padding_mask": "decoder_attention_mask",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Ours and theirs, and the outputs to compare, by the names of either."""

    ours: Callable[..., keras.Model]
    theirs: Callable[[], Any]
    inputs: tuple[str, ...]  # of INPUTS
    outputs: Mapping[str, str] | None = None
    layout: str = "transformers"

    def our_outputs(self, found: Any) -> list[Any]:
        return [found[name] for name in self.outputs] if isinstance(found, dict) else [found]

    def their_outputs(self, module: Any, inputs: Mapping[str, ndarray]) -> list[Any]:
        import torch

        given = {name: torch.from_numpy(x).long() for name, x in inputs.items()}
        if self.layout != "transformers":
            return [module(**given)]
        found = module(**{THEIRS[name]: x for name, x in given.items()})
        if "start_logits" in found:
            return [torch.stack([found.start_logits, found.end_logits], -1)]
        return [found[name] for name in (self.outputs or {"": "logits"}).values()]


INPUTS = {
    "tokens": ("token_ids",),
    "padding": ("token_ids", "padding_mask"),
    "padding before": ("token_ids", "padding_mask"),
    "segments": ("token_ids", "segment_ids"),
    "padding, segments": ("token_ids", "padding_mask", "segment_ids"),
    "decoder": ("token_ids", "decoder_token_ids"),
    "decoder, padding": ("token_ids", "decoder_token_ids", "padding_mask"),
    "decoder, padding of both": ("token_ids", "decoder_token_ids", "padding_mask", "decoder_padding_mask"),
}
BERTS = ("padding, segments",)
GPTS = ("tokens", "padding", "padding before")
T5S = ("decoder, padding of both", "decoder", "decoder, padding")
ENCODED = {"sequence": "last_hidden_state", "pooled": "pooler_output"}
LEARNT = {"masked_lm": "prediction_logits", "next_sentence": "seq_relationship_logits"}

CASES = {
    "BertModel": Case(lambda **s: bert("encoder", **s), lambda: their_bert("BertModel"), BERTS, ENCODED),
    "BertForPreTraining": Case(
        lambda **s: bert("pretraining", **s), lambda: their_bert("BertForPreTraining"),
        (*BERTS, "tokens", "padding", "segments"), LEARNT,
    ),
    "BertForMaskedLM": Case(lambda **s: bert("masked_lm", **s), lambda: their_bert("BertForMaskedLM"), BERTS),
    "BertForNextSentencePrediction": Case(
        lambda **s: bert("next_sentence", **s), lambda: their_bert("BertForNextSentencePrediction"), BERTS,
    ),
    "BertForSequenceClassification": Case(
        lambda **s: bert("classifier", **s), lambda: their_bert("BertForSequenceClassification"), BERTS,
    ),
    "BertForTokenClassification": Case(
        lambda **s: bert("tagger", **s), lambda: their_bert("BertForTokenClassification"), BERTS,
    ),
    "BertForQuestionAnswering": Case(
        lambda **s: bert("span", **s), lambda: their_bert("BertForQuestionAnswering", num_labels=2), BERTS,
    ),
    "GPT2LMHeadModel": Case(gpt, their_gpt2, GPTS),
    "T5ForConditionalGeneration": Case(lambda **s: t5("1.0", **s), lambda: their_t5("1.0"), T5S),
    "T5ForConditionalGeneration 1.1": Case(lambda **s: t5("1.1", **s), lambda: their_t5("1.1"), T5S),
    "minGPT": Case(gpt, lambda: karpathys(masks=True), ("tokens",), layout="mingpt"),
    "minGPT, trained": Case(
        lambda **s: gpt(tied=False, **s), lambda: karpathys(tied=False, masks=True), ("tokens",),
        layout="mingpt",
    ),
    "nanoGPT, before": Case(gpt, karpathys, ("tokens",), layout="nanogpt"),
    "nanoGPT": Case(
        lambda **s: gpt(activation="gelu", **s), lambda: karpathys(exact=True), ("tokens",), layout="nanogpt",
    ),
}  # fmt: skip


def arrays_of(kind: str) -> dict[str, ndarray]:
    rng = random.generator("test", "inputs")
    ends, written = np.array([[LENGTH], [5], [2]]), np.array([[3], [WRITTEN], [5]])
    mask = np.int32(np.arange(LENGTH) < ends)
    arrays = {
        "token_ids": rng.integers(1, VOCABULARY, (BATCH, LENGTH), dtype=np.int32),
        "padding_mask": mask[:, ::-1].copy() if kind == "padding before" else mask,
        "segment_ids": np.int32(np.arange(LENGTH) >= np.array([[4], [3], [1]])),
        "decoder_token_ids": rng.integers(0, VOCABULARY, (BATCH, WRITTEN), dtype=np.int32),
        "decoder_padding_mask": np.int32(np.arange(WRITTEN) < written),
    }
    return {name: arrays[name] for name in INPUTS[kind]}


def fill(module: Any, dtype: str) -> Any:
    """Random weights, no bias 0 and no scale 1; what goes in keeps its size on the way through."""
    import torch

    rng = random.generator("test", "weights")
    module = module.to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        for name, x in module.named_parameters():
            mean = 1 if x.ndim == 1 and name.endswith("weight") else 0
            x.copy_(torch.from_numpy(rng.normal(mean, 0.2 if x.ndim == 1 else x.shape[-1] ** -0.5, x.shape)))
    return module


@cache
def pair(name: str, dtype: str) -> tuple[keras.Model, Any]:
    """Ours with their weights, and theirs."""
    case = CASES[name]
    theirs, ours = fill(case.theirs(), dtype), case.ours()
    state = theirs.state_dict()
    done = zoo.weights.from_torch(ours, state)
    assert (done.layout, done.tensors) == (case.layout, len(without(state, ".attn.bias")))
    return ours, theirs


def off(ours: Any, theirs: Any, largest: float | None = None) -> float:
    """The largest difference, in units of the largest value."""
    ours, theirs = numpy(ours), np.asarray(theirs)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    return np.abs(ours - theirs).max() / (largest or np.abs(theirs).max())


def assert_outputs_equal(case: Case, ours: keras.Model, theirs: Any, kind: str, bound: float) -> None:
    """With "sdpa", transformers' default, a token with padding alone before it gets zeros, as with ours."""
    import torch

    arrays = arrays_of(kind)
    given = ours(backends.tensors(arrays), training=False)
    with torch.no_grad():
        wanted = [y.numpy() for y in case.their_outputs(theirs, arrays)]
    for y, their_y in zip(case.our_outputs(given), wanted, strict=True):
        assert np.abs(their_y).max() > 0.1
        assert off(y, their_y) <= bound


EVERY = [(name, kind) for name, case in CASES.items() for kind in case.inputs]


@pytest.mark.peers
@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_ours_with_their_weights_gives_their_outputs(name: str, kind: str, dtype: str) -> None:
    assert_outputs_equal(CASES[name], *pair(name, dtype), kind, BOUNDS[dtype])


# One of a family; to compile all takes a minute.
QUICK = ("BertForPreTraining", "GPT2LMHeadModel", "T5ForConditionalGeneration")


@pytest.mark.once
@pytest.mark.peers
@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in CASES]
)
def test_every_weight_has_their_gradient(name: str, dtype: str) -> None:
    """Of the outputs' sum, each weighed by a number drawn at random; theirs pass the layout as weights do."""
    import torch

    case, (ours, theirs) = CASES[name], pair(name, dtype)
    arrays = arrays_of(case.inputs[0])
    found = case.their_outputs(theirs, arrays)
    weights = [random.generator("test", i).standard_normal(tuple(y.shape)) for i, y in enumerate(found)]
    theirs.zero_grad()
    sum((y * torch.from_numpy(w).to(y.dtype)).sum() for y, w in zip(found, weights, strict=True)).backward()
    state = theirs.state_dict(keep_vars=True)
    wanted = case.ours()
    zoo.weights.from_torch(wanted, {key: x.grad for key, x in state.items() if x.requires_grad}, case.layout)

    def weighed(_: Any, outputs: Any) -> Any:
        outputs = case.our_outputs(outputs)
        return sum(
            ops.sum(y * ops.convert_to_tensor(w, dtype=y.dtype))
            for y, w in zip(outputs, weights, strict=True)
        )

    nothing = HERE.tensor(np.zeros(1, np.int32))
    _, gradients, _ = HERE.gradients(ours, weighed)(backends.tensors(arrays), nothing)
    largest = max(np.abs(numpy(v)).max() for v in wanted.trainable_variables)
    for gradient, v in zip(gradients, wanted.trainable_variables, strict=True):
        assert off(gradient, numpy(v), largest) <= BOUNDS[dtype], v.path


@pytest.mark.peers
@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize("name", CASES)
def test_ours_exported_is_loaded_strictly_and_gives_the_same_outputs(name: str) -> None:
    case = CASES[name]
    ours, theirs = stirred(case.ours(seed=2)), case.theirs().eval()
    theirs.load_state_dict(zoo.weights.to_torch(ours, case.layout), strict=True)
    assert_outputs_equal(case, ours, theirs, case.inputs[0], BOUNDS["float32"])


@pytest.mark.once
@pytest.mark.peers
@pytest.mark.usefixtures("transformers")
def test_the_trunk_of_gpt2_is_read() -> None:
    import torch

    theirs, ours = fill(their_gpt2("GPT2Model"), "float32"), gpt()
    zoo.weights.from_torch(ours, theirs.state_dict())
    arrays = arrays_of("tokens")
    with torch.no_grad():
        x = theirs(torch.from_numpy(arrays["token_ids"]).long()).last_hidden_state.numpy()
    y = zoo.features(ours)(backends.tensors({**arrays, "padding_mask": np.ones_like(arrays["token_ids"])}))
    assert off(y, x) <= BOUNDS["float32"]


@pytest.mark.once
@pytest.mark.peers
@pytest.mark.usefixtures("transformers")
def test_a_mingpt_whose_head_differs_from_its_embedding_is_refused() -> None:
    theirs, ours = fill(karpathys(tied=False, masks=True), "float32"), gpt()
    state = {name: x.numpy() for name, x in theirs.state_dict().items()}
    refused(
        ours, state, "lm_head.weight differs from transformer.wte.weight, and gpt-mini has one array for both"
    )
    theirs["lm_head"].weight.data.copy_(theirs["transformer"]["wte"].weight)
    zoo.weights.from_torch(ours, theirs.state_dict())
    assert_outputs_equal(CASES["minGPT"], ours, theirs, "tokens", BOUNDS["float32"])


@pytest.mark.once
@pytest.mark.peers
def test_torch_names_a_compiled_model_as_those_read_here() -> None:
    import torch

    theirs, ours = fill(karpathys(), "float32"), gpt()
    state: Any = torch.compile(theirs).state_dict()
    assert all(name.startswith("_orig_mod.") for name in state)
    assert zoo.weights.from_torch(ours, state).layout == "nanogpt"
    assert_outputs_equal(CASES["nanoGPT, before"], ours, theirs, "tokens", BOUNDS["float32"])


# --- files that transformers writes and reads ---

FILES = ("BertModel", "BertForPreTraining", "GPT2LMHeadModel", "T5ForConditionalGeneration",
         "T5ForConditionalGeneration 1.1")  # fmt: skip


@pytest.mark.once
@pytest.mark.peers
@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize("name", FILES)
def test_a_folder_that_transformers_saved_is_loaded(name: str, tmp_path: Path) -> None:
    """It writes a tied array once."""
    case = CASES[name]
    theirs, ours = fill(case.theirs(), "float32"), case.ours()
    theirs.save_pretrained(tmp_path)
    zoo.weights.load(ours, tmp_path)
    assert_outputs_equal(case, ours, theirs, case.inputs[0], BOUNDS["float32"])


@pytest.mark.once
@pytest.mark.peers
@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize("name", FILES)
def test_transformers_loads_a_file_that_we_saved(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    ours, theirs = stirred(case.ours(seed=3)), case.theirs()
    theirs.config.save_pretrained(tmp_path)
    zoo.weights.save(ours, tmp_path / "model.safetensors", layout="transformers")
    read, told = type(theirs).from_pretrained(tmp_path, attn_implementation="eager", output_loading_info=True)
    assert not any(told.values())
    assert_outputs_equal(case, ours, read.eval(), case.inputs[0], BOUNDS["float32"])


# --- details ---


@pytest.mark.once
@pytest.mark.peers
@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (16, 100), (8, 20)])
def test_every_distance_is_in_t5s_bucket(causal: bool, buckets: int, distance: int) -> None:
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    x = layers.Input((301, 2))
    y = layers.relative_positions(x, 1, causal=causal, buckets=buckets, distance=distance, name="positions")
    model = layers.Model(x, y)
    model.get_layer("positions").table.assign(np.arange(buckets, dtype=np.float32)[:, None])
    ours = numpy(model(np.zeros((1, 301, 2), np.float32)))[0, 0]
    places = torch.arange(301)
    theirs = T5Attention._relative_position_bucket(
        places[None] - places[:, None], not causal, buckets, distance
    )
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.once
@pytest.mark.peers
@pytest.mark.long
@pytest.mark.parametrize("name", ["bert-base", "gpt2", "t5-small", "t5-v1.1-small"])
def test_a_model_in_full_size_has_the_originals_names_and_shapes(
    name: str, transformers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From weights of zero, which are quick to make; theirs are transformers' defaults, but for T5 1.1."""
    import torch

    newer = {"d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"}
    with torch.device("meta"):
        theirs = {
            "bert-base": lambda: transformers.BertModel(transformers.BertConfig()),
            "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config()),
            "t5-small": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config()),
            "t5-v1.1-small": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**newer)),
        }[name]()
    monkeypatch.setattr(
        random.Initializer, "draw", lambda self, key, shape, *memory: np.zeros(shape, np.float32)
    )
    ours = zoo.build(name)
    scheme = next(s for s in SCHEMES if s.name == "transformers" and s.suits(ours))
    plan, _ = scheme.plan(ours)
    shapes = {}
    for first, tensor in plan.items():
        shapes |= dict.fromkeys([first, *(names[0] for names in tensor.copies)], tensor.shape)
    assert shapes == {n: tuple(x.shape) for n, x in theirs.state_dict().items()}
