"""Transformers of tokens: ours against their equations in float64, the papers' positions, and themselves."""

from typing import Any

import numpy as np
import pytest
from conftest import numpy
from numpy import ndarray
from scipy.special import erf, softmax

import zoo
from zoo import backends, layers, random
from zoo._lazy import keras
from zoo.layers import Input, Model

QUIET: Any = {"verbose": 0}  # Keras annotates it as a string
BOUND = 5e-6  # float32, of the largest value
FAMILIES = ("bert-tiny", "gpt-nano", "t5-tiny", "t5-v1.1-small")
Weights = dict[str, ndarray]


def noise(*shape: int, seed: int = 0) -> ndarray:
    return random.generator("test", seed, *shape).standard_normal(shape, dtype=np.float32)


def off(ours: Any, theirs: ndarray) -> float:
    ours = numpy(ours)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def small(name: str, **changes: Any) -> keras.Model:
    """Small, its weights moved, so that no bias is zero and no scale is one."""
    model = zoo.build(name, **{**zoo.card(name).small, **changes})
    for v in model.trainable_variables:
        v.assign(numpy(v) + 0.2 * noise(*v.shape, seed=len(v.path)))
    return model


def weights(model: keras.Model) -> Weights:
    return {v.path: numpy(v).astype(np.float64) for v in model.variables}


# --- the equations ---


def affine(x: ndarray, w: Weights, name: str) -> ndarray:
    return x @ w[f"{name}/kernel"] + w.get(f"{name}/bias", 0)


def norm(x: ndarray, w: Weights, name: str, epsilon: float) -> ndarray:
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * w[f"{name}/gamma"] + w[f"{name}/beta"]


def rms(x: ndarray, w: Weights, name: str) -> ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}/gamma"]


def attend(
    x: ndarray, memory: ndarray, w: Weights, name: str, hidden: ndarray, near: Any = 0.0, scaled: bool = True
) -> ndarray:
    """Two heads, one after the other; `hidden` (b, n, m) where a query does not see a key."""
    q, k, v = (
        np.split(affine(of, w, f"{name}_{part}"), 2, -1)
        for of, part in ((x, "query"), (memory, "key"), (memory, "value"))
    )
    heads = []
    for h in range(2):
        scores = q[h] @ k[h].transpose(0, 2, 1) / (np.sqrt(q[h].shape[-1]) if scaled else 1)
        scores = scores + (near[h] if np.ndim(near) else near)
        seen = ~hidden.all(-1, keepdims=True)  # a query that sees no key gets zeros
        heads.append(seen * softmax(np.where(hidden & seen, -np.inf, scores), -1) @ v[h])
    return affine(np.concatenate(heads, -1), w, f"{name}_output")


def gelu(x: ndarray) -> ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def gelu_tanh(x: ndarray) -> ndarray:
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def unseen(mask: ndarray, causal: bool = False, queries: int | None = None) -> ndarray:
    """(b, n, m): padding, and if causal what comes later."""
    n = queries or mask.shape[1]
    later = np.triu(np.ones((n, mask.shape[1]), bool), 1) if causal else False
    return (mask[:, None] == 0) | later | np.zeros((1, n, 1), bool)


def bert(x: dict[str, ndarray], w: Weights) -> ndarray:
    """Its last hidden state."""
    table = w["token_embedding/table"]
    z = table[x["token_ids"]] + w["position_embedding/table"][: x["token_ids"].shape[1]]
    z = norm(z + w["segment_embedding/table"][x["segment_ids"]], w, "embedding_norm", 1e-12)
    for name in ("block1", "block2"):
        y = attend(z, z, w, f"{name}_attention", unseen(x["padding_mask"]))
        z = norm(z + y, w, f"{name}_norm1", 1e-12)
        y = affine(gelu(affine(z, w, f"{name}_mlp1")), w, f"{name}_mlp2")
        z = norm(z + y, w, f"{name}_norm2", 1e-12)
    return z


def example(model: keras.Model, batch: int = 4) -> dict[str, ndarray]:
    """Padding behind, before and amid the tokens, and a row of nothing else."""
    x: Any = zoo.example(model, batch)
    for name in x:
        if name.endswith("padding_mask"):
            x[name][2:3] = [0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0]
            x[name][3:] = 0
    if "segment_ids" in x:
        x["segment_ids"] = np.int32(np.arange(12)[None] >= 5) * x["padding_mask"]
    return x


@pytest.mark.parametrize("head", ["encoder", "masked_lm", "pretraining", "classifier", "tagger", "span"])
def test_bert_is_its_equations(head: str) -> None:
    model = small("bert-tiny", head=head)
    x, w = example(model), weights(model)
    z = bert(x, w)
    found: Any = model(x)

    def pooled() -> ndarray:
        return np.tanh(affine(z[:, 0], w, "pooler"))

    def logits() -> ndarray:
        y = norm(gelu(affine(z, w, "masked_lm")), w, "masked_lm_norm", 1e-12)
        return y @ w["token_embedding/table"].T + w["masked_lm_bias/value"]

    if head == "encoder":
        assert off(found["sequence"], z) <= BOUND
        assert off(found["pooled"], pooled()) <= BOUND
    elif head == "pretraining":
        assert off(found["masked_lm"], logits()) <= BOUND
        assert off(found["next_sentence"], affine(pooled(), w, "next_sentence")) <= BOUND
    elif head == "masked_lm":
        assert off(found, logits()) <= BOUND
    else:
        assert off(found, affine(pooled() if head == "classifier" else z, w, "head")) <= BOUND


def test_gpt_is_its_equations() -> None:
    model = small("gpt-nano")
    x, w = example(model), weights(model)
    table = w["token_embedding/table"]
    z = table[x["token_ids"]] + w["position_embedding/table"][:12]
    for name in ("block1", "block2"):
        y = norm(z, w, f"{name}_norm1", 1e-5)
        z = z + attend(y, y, w, f"{name}_attention", unseen(x["padding_mask"], causal=True))
        y = affine(norm(z, w, f"{name}_norm2", 1e-5), w, f"{name}_mlp1")
        z = z + affine(gelu_tanh(y), w, f"{name}_mlp2")
    assert off(model(x), norm(z, w, "norm", 1e-5) @ table.T) <= BOUND


def bucket(after: int, causal: bool) -> int:
    """Of a key so far after its query, by Mesh TensorFlow's rule, in exact arithmetic where it ends one.

    Half of the buckets are a step each; the others end at 8 (128 / 8)^(i / 8), of which 16, 32 and 64 are
    whole: such a distance begins the next one.
    """
    count, first = (32, 0) if causal else (16, 16 * (after > 0))
    distance = max(-after, 0) if causal else abs(after)
    exact = count // 2
    if distance < exact:
        return first + distance
    wide = next(i for i in range(count) if distance**exact < exact**exact * (128 // exact) ** (i + 1))
    return first + min(exact + wide, count - 1)


@pytest.mark.parametrize("causal", [True, False])
def test_distances_share_buckets_by_the_papers_rule(causal: bool) -> None:
    inputs = Input((None, 3))
    model = Model(inputs, layers.relative_positions(inputs, 2, causal=causal, name="near"))
    table = weights(model)["near/table"]
    found = numpy(model(np.zeros((1, 300, 3), np.float32)))
    theirs = np.array([[bucket(j - i, causal) for j in range(300)] for i in range(300)])
    assert np.array_equal(found[0], np.float32(table[theirs].transpose(2, 0, 1)))


@pytest.mark.parametrize("name", ["t5-tiny", "t5-v1.1-small"])
def test_t5_is_its_equations(name: str) -> None:
    newer = name == "t5-v1.1-small"
    model = small(name, gated=newer, tied=not newer)
    x, w = example(model), weights(model)
    table = w["token_embedding/table"]

    def stack(kind: str, tokens: ndarray, mask: ndarray, memory: ndarray | None = None) -> ndarray:
        causal, z, n = memory is not None, table[tokens], tokens.shape[1]
        near = np.array([[bucket(j - i, causal) for j in range(n)] for i in range(n)])
        near = w[f"{kind}_positions/table"][near].transpose(2, 0, 1)
        for i in (1, 2):
            block = f"{kind}_block{i}"
            y = rms(z, w, f"{block}_attention_norm")
            z = z + attend(y, y, w, f"{block}_attention", unseen(mask, causal), near, scaled=False)
            if memory is not None:
                y = rms(z, w, f"{block}_memory_norm")
                hidden = unseen(x["padding_mask"], queries=n)
                z = z + attend(y, memory, w, f"{block}_memory", hidden, scaled=False)
            y = rms(z, w, f"{block}_mlp_norm")
            into = affine(y, w, f"{block}_mlp_in")
            y = gelu_tanh(affine(y, w, f"{block}_mlp_gate")) * into if newer else np.maximum(into, 0)
            z = z + affine(y, w, f"{block}_mlp_out")
        return rms(z, w, f"{kind}_norm")

    memory = stack("encoder", x["token_ids"], x["padding_mask"])
    z = stack("decoder", x["decoder_token_ids"], x["decoder_padding_mask"], memory)
    theirs = affine(z, w, "head") if newer else z / np.sqrt(z.shape[-1]) @ table.T
    assert off(model(x), theirs) <= BOUND


def test_sinusoids_are_the_papers() -> None:
    """PE(t, i) = sin(t / 10000^(i / (c/2 - 1))), and cosines, tensor2tensor's order and exponent."""
    inputs = Input((None, 8))
    found = numpy(Model(inputs, layers.sinusoidal_positions(inputs))(np.zeros((1, 50, 8), np.float32)))[0]
    angles = np.arange(50)[:, None] / 10_000 ** (np.arange(4) / 3)
    assert np.abs(found - np.concatenate([np.sin(angles), np.cos(angles)], 1)).max() <= 5e-6


# --- attention ---


@pytest.mark.parametrize("dropout_rate", [0.0, 0.3])
def test_attention_drops_what_a_head_looks_at(dropout_rate: float) -> None:
    """In training softmax's weights are dropped by the mask that `random.keep` gives."""
    inputs = Input((5, 6))
    y = layers.attention(inputs, 2, causal=True, dropout_rate=dropout_rate, name="a")
    model, x = Model(inputs, y), noise(3, 5, 6)
    w = weights(model)
    q, k, v = (
        (x @ w[f"a_{part}/kernel"] + w[f"a_{part}/bias"]).reshape(3, 5, 2, 3).transpose(0, 2, 1, 3)
        for part in ("query", "key", "value")
    )
    scores = np.where(np.triu(np.ones((5, 5)), 1), -np.inf, q @ k.transpose(0, 1, 3, 2) / np.sqrt(3))
    seen = softmax(scores, -1)
    if dropout_rate:
        key = random.key32(0, "a_dropout", "dropout")
        seen = seen * numpy(random.keep((3, 2, 5, 5), dropout_rate, key, np.int32(0))) / (1 - dropout_rate)
    theirs = (seen @ v).transpose(0, 2, 1, 3).reshape(3, 5, 6) @ w["a_output/kernel"] + w["a_output/bias"]
    assert off(model(x, training=True), theirs) <= BOUND


@pytest.mark.parametrize("name", FAMILIES)
def test_a_padded_text_gives_the_numbers_of_the_text_alone(name: str) -> None:
    model = small(name)
    run = backends.current().predictor(model, backends.MODES[backends.current().NAME][0])
    x = example(model, 2)
    for k in x:
        x[k][1, 5:] = 0
    real = {k: x[k.replace("segment_ids", "padding_mask").replace("token_ids", "padding_mask")] for k in x}
    together = numpy(run(backends.tensors(x)))[1:]
    alone = {k: a[1:, : real[k][1].sum()] for k, a in x.items() if not k.endswith("mask")}
    alone = numpy(run(backends.tensors(alone)))
    assert off(together[:, : alone.shape[1]], alone) <= BOUND


@pytest.mark.parametrize("name", ["gpt-nano", "t5-tiny"])
def test_a_decoder_does_not_see_the_future(name: str) -> None:
    model = small(name)
    x = {k: v for k, v in example(model, 1).items() if not k.endswith("mask")}
    tokens = "decoder_token_ids" if "decoder_token_ids" in x else "token_ids"
    changed = {**x, tokens: x[tokens].copy()}
    changed[tokens][0, 7] = x[tokens][0, 7] % 12 + 1
    before, after = numpy(model(x))[0], numpy(model(changed))[0]
    assert np.abs(before[:7] - after[:7]).max() <= BOUND * np.abs(before).max()
    assert np.abs(before[7:] - after[7:]).max(1).min() > 1e-3


# --- a model of tokens ---


def test_tokens_alone_are_enough() -> None:
    model = small("bert-tiny")
    tokens = np.maximum(example(model)["token_ids"], 1)
    everything = {"token_ids": tokens, "padding_mask": np.ones_like(tokens), "segment_ids": 0 * tokens}
    assert off(model(tokens), numpy(model(everything)).astype(np.float64)) <= BOUND
    tensor = backends.current().tensor(tokens)
    assert off(model(tensor), numpy(model(tokens)).astype(np.float64)) <= BOUND
    assert off(model.predict(tokens, **QUIET), numpy(model(tokens)).astype(np.float64)) <= BOUND


@pytest.mark.once
@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_and_a_cloned_model_are_the_same(name: str, tmp_path: Any) -> None:
    model = small(name)
    x = example(model)
    y = numpy(model(x))
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(numpy(loaded(x)), y)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert np.array_equal(numpy(clone(x)), y)


@pytest.mark.parametrize("call", ["model", "tensor", "predict"])
def test_tokens_out_of_the_vocabulary_are_refused(call: str) -> None:
    """On every framework alike: JAX and TensorFlow would take the nearest row."""
    model = small("gpt-nano")
    run = {
        "model": model,
        "tensor": lambda x: model({k: backends.current().tensor(v) for k, v in x.items()}),
        "predict": lambda x: model.predict(x, **QUIET),
    }[call]
    for bad in (13, -1):
        tokens = np.full((2, 4), 5, np.int32)
        tokens[1, 2] = bad
        with pytest.raises(zoo.WrongConfiguration, match=f"gpt-nano: token_ids has {bad}; expected 0 to 12"):
            run({"token_ids": tokens})
    with pytest.raises(zoo.WrongConfiguration, match="25 tokens in token_ids; it has positions for 24"):
        run({"token_ids": np.ones((1, 25), np.int32)})


def test_an_input_there_is_not_is_refused() -> None:
    with pytest.raises(zoo.WrongConfiguration, match="no input token_types; it takes"):
        small("bert-tiny")({"token_ids": np.ones((1, 3), np.int32), "token_types": np.ones((1, 3), np.int32)})


def test_training_refuses_tokens_and_labels_that_do_not_fit() -> None:
    tokens = np.full((8, 6), 20, np.int32)
    with pytest.raises(zoo.WrongConfiguration, match="token_ids has 20; expected 0 to 12"):
        zoo.train(small("gpt-nano"), (tokens, tokens % 13), steps=1)
    with pytest.raises(zoo.WrongConfiguration, match="gives sequence and pooled; to train it, build it"):
        zoo.train(small("bert-tiny", head="encoder"), (tokens % 13, tokens % 13), steps=1)
    long = np.ones((8, 25), np.int32)
    with pytest.raises(zoo.WrongConfiguration, match="25 tokens in token_ids; it has positions for 24"):
        zoo.train(small("gpt-nano"), (long, long), steps=1)


def test_both_engines_train_where_inputs_are_left_out() -> None:
    """The mask of a text without padding is 1 everywhere: given or not, the losses are the same."""
    tokens = np.random.default_rng(0).integers(1, 13, (8, 6), dtype=np.int32)
    bare, whole = {"token_ids": tokens}, {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    losses = [
        zoo.train(small("gpt-nano", depth=1), (x, tokens), engine=engine, steps=3, batch_size=4).losses
        for x, engine in ((bare, "native"), (bare, "keras"), (whole, "native"))
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert losses[2] == pytest.approx(losses[0], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "task", "changes"),
    [
        ("gpt-nano", "topics", {}),
        ("bert-tiny", "topics-masked", {"head": "masked_lm"}),
        ("bert-tiny", "languages", {"positions": 8, "classes": 20}),
    ],
)
def test_training_refuses_texts_longer_than_the_positions(
    name: str, task: str, changes: dict[str, Any]
) -> None:
    """Texts in windows, corrupted windows, and sequences, whose longest batch counts."""
    model = zoo.build(name, **{**zoo.card(name).small, "vocabulary": 259, **changes})
    with pytest.raises(zoo.WrongConfiguration, match=r"tokens in token_ids; it has positions for \d+\. Cut"):
        zoo.train(model, task, steps=1)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("bert-tiny", {"head": "taggr"}, r"head='taggr'; nearest: tagger"),
        ("gpt-nano", {"heads": 5}, "block1_attention: 5 heads; expected a divisor of the width, 48"),
        ("gpt-nano", {"dropout_rate": 1.0}, r"expected 0 <= rate < 1"),
    ],
)
def test_what_cannot_be_is_refused(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=said):
        zoo.build(name, **changes)


def test_t5_begins_as_mesh_tensorflow_does() -> None:
    """Deviations of its kernels: queries for scores that are not scaled, a table of 1."""
    model = zoo.build("t5-tiny", vocabulary=2000)
    w = weights(model)
    for path, deviation in {
        "token_embedding/table": 1.0,
        "encoder_block1_attention_query/kernel": (256 * 64) ** -0.5,
        "encoder_block1_attention_key/kernel": 256**-0.5,
        "decoder_block2_memory_value/kernel": 256**-0.5,
        "decoder_block2_memory_output/kernel": (4 * 64) ** -0.5,
        "decoder_block1_mlp_in/kernel": 256**-0.5,
        "decoder_block1_mlp_out/kernel": 1024**-0.5,
        "decoder_positions/table": 256**-0.5,
    }.items():
        spread = 4 / np.sqrt(2 * w[path].size)  # four standard errors of a deviation
        assert w[path].std() == pytest.approx(deviation, rel=spread), path


def test_gpt_begins_with_less_of_what_is_added_last() -> None:
    """0.02, and divided by the root of their number for what ends a branch (GPT-2, section 2.3)."""
    w = weights(zoo.build("gpt-micro", vocabulary=2000))
    for path, deviation in {
        "token_embedding/table": 0.02,
        "block1_attention_key/kernel": 0.02,
        "block1_attention_output/kernel": 0.02 / np.sqrt(8),
        "block4_mlp2/kernel": 0.02 / np.sqrt(8),
    }.items():
        assert w[path].std() == pytest.approx(deviation, rel=4 / np.sqrt(2 * w[path].size)), path
