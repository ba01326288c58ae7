"""Text generation: sampling, greedy decoding and beam search.

    zoo.generate(model, "Once upon", max_tokens=40)      # GPT continues the text, T5 maps it to another
    zoo.translate(model, ["24 novembre 2026"])           # ["2026-11-24"], with seq2seq or T5

`generate` caches keys and values (`zoo.layers.cache`), so each token takes one step of constant cost.
Sampling depends on the seed, the index of the prompt and the step: every framework generates the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backends, random, tokenizers
from zoo._lazy import keras, ops
from zoo.checks import integer
from zoo.errors import WrongConfiguration
from zoo.layers import TokenModel, signature
from zoo.layers import cache as caching
from zoo.tasks import sequences
from zoo.tasks.sequences import BYTE_TOKENIZER, PADDING, Sequences, begin_of, end_of
from zoo.training import runs

if TYPE_CHECKING:
    from zoo.tokenizers import Tokenizer
    from zoo.training.run import Run
    from zoo.training.runs import SavedRun

    Tensor = Any

CHUNK = 32  # prompts are padded, and texts made room for, up to multiples of it: few shapes to compile


def generate(
    model: keras.Model | SavedRun | Run | str | Path,
    prompt: str | Sequence[str] | np.ndarray | Sequence[np.ndarray],
    max_tokens: int = 40,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int = 1,
    repetition_penalty: float = 1.0,
    stop: str | Sequence[str] | None = None,
    seed: int = 0,
    tokenizer: Tokenizer | str | Path | None = None,
    watch: Callable[[int, str], None] | None = None,
) -> Any:
    """Generate text after a prompt, or after each of several, up to its end or `max_tokens`.

    Temperature 0 takes the most likely token each time (greedy decoding); otherwise tokens are sampled from
    softmax(logits / temperature), restricted to the `top_k` most likely tokens, or to the smallest set of
    tokens with a total probability of `top_p` (Holtzman et al. 2019, arXiv:1904.09751). With `beams` above 1,
    beam search looks for the most likely text by its mean log probability per token, and takes no
    `temperature`, `top_k`, `top_p` or `seed`. `repetition_penalty` divides the scores of tokens that already
    occur (Keskar et al. 2019, arXiv:1909.05858, section 4.1). A text ends before any of the strings in
    `stop`. `watch(index, piece)` is a callback that receives each piece of each prompt's text as it is
    generated. These options work as in transformers' `generate`.

    `model` may also be a run of `zoo.train` or its path (`zoo.load_run`), which includes its tokenizer.
    Tokens are bytes unless a `tokenizer` is given, one of `zoo.tokenizers` or what its `load` takes. For
    prompts given as token ids, (n,) int32, the result is token ids. Raises WrongConfiguration, before any
    work, for a model that does not generate text, a prompt that is empty, too long or not in the vocabulary,
    and invalid options.
    """
    model = runs.model_of(model)
    decoder = _decoder(model)
    config = SamplingConfig(temperature, top_k, top_p, beams, repetition_penalty, seed, max_tokens)
    if watch is not None and beams > 1:
        raise WrongConfiguration("generate: watch= goes with beams=1; a beam knows its text at the end only")
    prompts = [prompt] if isinstance(prompt, str | np.ndarray) else list(prompt)
    texts = bool(prompts) and isinstance(prompts[0], str)
    reader = tokenizers.resolve(tokenizer) or (_usual_tokenizer(model) if texts or stop else None)
    if reader is not None:
        reader.check(model)
    stops = [] if stop is None else [stop] if isinstance(stop, str) else list(stop)
    tokens = [reader.encode(x) if reader and isinstance(x, str) else np.asarray(x) for x in prompts]
    decoder.check(tokens, max_tokens)
    begin, end = (None, None) if reader is None else (reader.begin, reader.end)
    stream = _Stream(reader, stops, watch) if reader is not None and (stops or watch) else None
    outputs = decoder.generate(tokens, config, begin, end, stream)
    if texts and reader is not None:
        results = [_before(reader.decode(output), stops)[0] for output in outputs]
    else:
        results = [np.array(output, np.int32) for output in outputs]
    return results[0] if isinstance(prompt, str | np.ndarray) else results


class _Stream:
    """The texts while they are generated: passes new pieces to a callback, and looks for stop strings."""

    def __init__(self, reader: Tokenizer, stops: Sequence[str], callback: Callable[[int, str], None] | None):
        self.reader, self.stops, self.callback = reader, stops, callback
        self.passed: dict[int, str] = {}  # to the callback, by the index of the prompt

    def __call__(self, index: int, tokens: list[int], is_last: bool) -> bool:
        """Whether the text of these tokens has a stop string; `is_last` if no token follows."""
        text, stopped = _before(self.reader.decode(tokens), self.stops)
        if self.callback is not None:
            self.pass_on(index, text, complete=stopped or is_last)
        return stopped

    def pass_on(self, index: int, text: str, *, complete: bool) -> None:
        """Pass on the new piece, without an incomplete character and what may be the start of a stop."""
        assert self.callback is not None
        if not complete:
            text = text.rstrip("\N{REPLACEMENT CHARACTER}")
            text = text[: max(0, len(text) + 1 - max(map(len, self.stops), default=1))]
        before = self.passed.get(index, "")
        if len(text) > len(before):
            self.callback(index, text[len(before) :])
            self.passed[index] = text


def _usual_tokenizer(model: keras.Model) -> Tokenizer:
    """The tokenizer a model was trained with, where it knows its run; else bytes."""
    run = runs.run_of(model)
    if run is not None and run.tokenizer is not None:
        return run.tokenizer
    found = tokenizers.load("bytes")
    rows = signature.vocabulary(model, next(x for x in model.inputs if x.name == "token_ids"))
    if rows is not None and not found.fits(rows):
        raise WrongConfiguration(
            f"{model.name} has a vocabulary of {rows}, and bytes are {found.vocabulary}; give the "
            "tokenizer that it was trained with, tokenizer=zoo.tokenizers.load(...)"
        )
    return found


def _before(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """A text up to the first of `stops`, and whether there was one."""
    positions = [position for stop in stops if (position := text.find(stop)) >= 0]
    return (text[: min(positions)], True) if positions else (text, False)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """(rows, v) -> log p of each token."""
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


# How the next token is chosen


class SamplingConfig:
    """The options of `generate`, checked."""

    def __init__(
        self,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        beams: int,
        repetition_penalty: float,
        seed: int,
        max_tokens: int,
    ):
        max_tokens = integer("generate", "max_tokens", max_tokens)
        beams = integer("generate", "beams", beams)
        top_k = None if top_k is None else integer("generate", "top_k", top_k)
        seed = integer("generate", "seed", seed, 0)
        if not temperature >= 0:
            raise WrongConfiguration(f"generate: temperature={temperature!r}; expected 0 or more")
        if top_p is not None and not 0 < top_p <= 1:
            raise WrongConfiguration(f"generate: top_p={top_p!r}; expected 0 < top_p <= 1")
        if not repetition_penalty > 0:
            raise WrongConfiguration(f"generate: repetition_penalty={repetition_penalty!r}; expected above 0")
        # The defaults, and a temperature of 0, which draws nothing either.
        drawing = {"temperature": temperature not in (0, 1), "seed": seed != 0}
        drawing |= {"top_k": top_k is not None, "top_p": top_p is not None}
        if beams > 1 and any(drawing.values()):
            given = " and ".join(name for name, said in drawing.items() if said)
            raise WrongConfiguration(
                f"generate: {given} is for drawing tokens, and beams={beams} searches for the likeliest "
                "text; give one or the other"
            )
        self.temperature, self.top_k, self.top_p, self.beams = temperature, top_k, top_p, beams
        self.penalty, self.seed, self.max_tokens = repetition_penalty, seed, max_tokens

    def penalize(self, scores: np.ndarray, text: Sequence[int]) -> np.ndarray:
        """(v,) with the scores of the text's tokens divided, or where they are negative multiplied."""
        if self.penalty == 1:
            return scores
        scores, tokens = scores.copy(), np.unique(text)
        old = scores[tokens]
        scores[tokens] = np.where(old < 0, old * self.penalty, old / self.penalty)
        return scores

    def choose(self, logits: np.ndarray, index: int, step: int) -> int:
        """The next token of a prompt by its logits (v,): the largest, or drawn by the Gumbel trick."""
        if self.temperature == 0:
            return int(logits.argmax())
        scores = logits / self.temperature
        if self.top_k is not None and self.top_k < len(scores):
            scores = np.where(scores >= np.partition(scores, -self.top_k)[-self.top_k], scores, -np.inf)
        if self.top_p is not None and self.top_p < 1:
            order = np.argsort(-scores, kind="stable")
            p = np.exp(scores[order] - scores[order[0]])
            before = np.cumsum(p) - p  # of the likelier ones
            scores[order[before >= self.top_p * p.sum()]] = -np.inf
        return int(
            (scores + random.generator(self.seed, "generate", index, step).gumbel(size=len(scores))).argmax()
        )


# Decoding with a key-value cache


class DecodeStep:
    """Runs a decoder token by token, its cache an argument: the same compiled step for every token."""

    def __init__(self, decoder: keras.Model, tokens: str):
        from zoo.layers.classes import CachedStep

        self.step = CachedStep(decoder, tokens)
        self.run = _predictor(self.step)
        self.heads = {
            layer.name: (layer.heads, layer.input[1].shape[-1] // layer.heads)
            for layer in _attentions(decoder)
            if layer.causal
        }

    def empty(self, rows: int, length: int) -> caching.Arrays:
        """A cache for `length` tokens of each row."""
        dtype = self.step.compute_dtype
        return {
            name: tuple(ops.zeros((rows, length, *shape), dtype) for _ in range(2))
            for name, shape in self.heads.items()
        }  # pyright: ignore[reportReturnType]

    def __call__(
        self,
        cache: caching.Arrays,
        tokens: np.ndarray,
        positions: np.ndarray,
        last: np.ndarray,
        context: dict[str, Tensor],
        parents: np.ndarray | None = None,
    ) -> tuple[np.ndarray, caching.Arrays]:
        """(rows, n) tokens, the first at `positions`: the logits (rows, v) after the `last`, and the cache.

        `context` are the decoder's other inputs. Each row continues from the cache of its parent, by default
        its own.
        """
        numbers = {"token_ids": tokens, "positions": positions, "last": last}
        if parents is not None:
            numbers["parents"] = parents
        inputs = backends.tensors({name: np.int32(x) for name, x in numbers.items()})
        outputs = self.run({**inputs, "context": context, "cache": cache})
        return np.asarray(ops.convert_to_numpy(outputs["logits"]), np.float64), outputs["cache"]


class Decoder:
    """Generates text with one model."""

    def __init__(self, model: keras.Model):
        self.model = model
        self.inputs = {tensor.name: tensor for tensor in model.inputs}
        self.is_encoder_decoder = "decoder_token_ids" in self.inputs
        attentions = _attentions(model)
        if "token_ids" not in self.inputs or not any(layer.causal for layer in attentions):
            raise WrongConfiguration(
                f"generate: {model.name} does not write; expected a model of tokens whose attention is "
                "causal, as gpt-mini or t5-mini (zoo.translate is for seq2seq)"
            )
        if not self.is_encoder_decoder:
            self.step = DecodeStep(model, "token_ids")
            return
        # Cut in two: the keys and values of the encoder's output are computed once.
        cross = [layer.input[1:3] for layer in attentions if layer.name.endswith("_memory")]
        keys_values = {x.name: x for pair in cross for x in pair}
        source = {name: self.inputs[name] for name in ("token_ids", "padding_mask")}
        self.encoder = _predictor(keras.Model(source, keys_values))
        own = {name: x for name, x in self.inputs.items() if name != "token_ids"}
        self.step = DecodeStep(TokenModel({**own, **keys_values}, model.output), "decoder_token_ids")

    def check(self, prompts: Sequence[np.ndarray], max_tokens: int) -> None:
        """Raise WrongConfiguration for prompts that are invalid, or too long to add `max_tokens`."""
        limit = signature.longest(self.model)
        if not prompts:
            raise WrongConfiguration("generate: no prompt; expected at least 1")
        for index, tokens in enumerate(prompts):
            if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
                raise WrongConfiguration(
                    f"generate: prompt {index} of shape {tokens.shape}, {tokens.dtype}; expected a text, or "
                    "integers (n,)"
                )
            if not len(tokens):
                raise WrongConfiguration(f"generate: prompt {index} is empty; expected at least 1 token")
            if limit is not None and len(tokens) + max_tokens > limit:
                raise WrongConfiguration(
                    f"generate: prompt {index} has {len(tokens)} tokens and max_tokens={max_tokens}; "
                    f"{self.model.name} has positions for {limit}. Cut the prompt, or ask for fewer"
                )
            signature.check_tokens(self.model, {"token_ids": tokens[None]})

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        config: SamplingConfig,
        begin: int | None,
        end: int | None,
        stop: Callable[[int, list[int], bool], bool] | None,
    ) -> list[list[int]]:
        """The tokens generated after each prompt, without the end; `stop` is a `_Stream`."""
        context: dict[str, Tensor] = {}
        starts = list(prompts)
        if self.is_encoder_decoder:
            context = self.encode(prompts, config.beams)
            starts = [np.array([PADDING if begin is None else begin], np.int32) for _ in prompts]
        rows = len(prompts) * config.beams
        starts = [start for start in starts for _ in range(config.beams)]
        lengths = np.array([len(start) for start in starts])
        width = 1 if self.is_encoder_decoder else _rounded(lengths.max())
        room = _rounded(max(width, lengths.max() + config.max_tokens))
        tokens = np.full((rows, width), PADDING, np.int32)
        for row, start in zip(tokens, starts, strict=True):
            row[: len(start)] = start
        cache = self.step.empty(rows, room)
        logits, cache = self.step(cache, tokens, np.zeros(rows), lengths - 1, context)

        def step(chosen: np.ndarray, count: int, parents: np.ndarray | None = None) -> np.ndarray:
            """The logits after each row's next token, its count-th."""
            nonlocal cache
            positions, last = lengths + count, np.zeros(rows)
            logits, cache = self.step(cache, chosen[:, None], positions, last, context, parents)
            return logits

        texts = [start.tolist() for start in starts]
        if config.beams > 1:
            return _beam_search(logits, step, texts, config, end)
        return _sample(logits, step, texts, config, end, stop)

    def encode(self, prompts: Sequence[np.ndarray], beams: int) -> dict[str, Tensor]:
        """The keys and values of the encoder's output and its padding mask, a row for each beam."""
        width = _rounded(max(map(len, prompts)))
        tokens = np.full((len(prompts), width), PADDING, np.int32)
        mask = np.zeros_like(tokens)
        for row, real, prompt in zip(tokens, mask, prompts, strict=True):
            row[: len(prompt)], real[: len(prompt)] = prompt, 1
        mask = np.repeat(mask, beams, axis=0)
        inputs = backends.tensors({"token_ids": np.repeat(tokens, beams, axis=0), "padding_mask": mask})
        return {**self.encoder(inputs), "padding_mask": inputs["padding_mask"]}


def _decoder(model: keras.Model) -> Decoder:
    return _attribute(model, "_zoo_decoder", Decoder)


def _attribute(model: keras.Model, name: str, make: Callable[[keras.Model], Any]) -> Any:
    """An attribute of the model, made at its first use: compiled functions live as long as the model."""
    if getattr(model, name, None) is None:
        object.__setattr__(model, name, make(model))  # not as a layer of it
    return getattr(model, name)


def _attentions(model: keras.Model) -> list[Any]:
    from zoo.layers.classes import Attention

    return [layer for layer in model.layers if isinstance(layer, Attention)]


def _predictor(model: keras.Model) -> Callable[[Any], Any]:
    """The model's prediction, compiled in its framework's default mode."""
    backend = backends.current()
    return backend.predictor(model, backends.MODES[backend.NAME][0])


def _rounded(count: int) -> int:
    return -(-int(count) // CHUNK) * CHUNK


def _sample(
    logits: np.ndarray,
    step: Callable[..., np.ndarray],
    texts: list[list[int]],
    config: SamplingConfig,
    end: int | None,
    stop: Callable[[int, list[int], bool], bool] | None,
) -> list[list[int]]:
    """One token after another for each row."""
    outputs: list[list[int]] = [[] for _ in texts]
    ended = [False] * len(texts)
    for count in range(config.max_tokens):
        is_last = count + 1 == config.max_tokens
        chosen = np.zeros(len(texts), np.int32)
        for i, scores in enumerate(logits):
            if ended[i]:
                continue
            token = config.choose(config.penalize(scores, texts[i]), i, count)
            if token == end:
                ended[i] = True
            else:
                chosen[i] = token
                outputs[i].append(token)
                texts[i].append(token)
            ended[i] |= stop is not None and stop(i, outputs[i], ended[i] or is_last)
        if all(ended) or is_last:
            break
        logits = step(chosen, count)
    return outputs


def _beam_search(
    logits: np.ndarray,
    step: Callable[..., np.ndarray],
    texts: list[list[int]],
    config: SamplingConfig,
    end: int | None,
) -> list[list[int]]:
    """The most likely text of each prompt that a beam finds, by its mean log p per token, the end counted.

    As transformers 5 searches: of the 2 k best continuations those among the first k that end are finished,
    and the k best others continue, until none of them is better than the worst of k finished ones.
    """
    k = config.beams
    count = len(texts) // k
    start = len(texts[0])
    scores = np.full((count, k), -1e9)
    scores[:, 0] = 0  # the beams start alike: one counts
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(count)]
    active = [True] * count
    for length in range(1, config.max_tokens + 1):
        log_p = _log_softmax(logits)
        log_p = np.stack([config.penalize(row, text) for row, text in zip(log_p, texts, strict=True)])
        vocabulary = log_p.shape[1]
        total = (scores.reshape(-1, 1) + log_p).reshape(count, -1)
        chosen, parents, following = np.zeros(count * k, np.int32), np.arange(count * k), list(texts)
        for row in range(count):
            best = np.argsort(-total[row], kind="stable")[: 2 * k]
            kept = 0
            for rank, candidate in enumerate(best):
                parent, token = row * k + candidate // vocabulary, int(candidate % vocabulary)
                ends = token == end or length == config.max_tokens
                if ends and rank < k and active[row]:
                    text = [*texts[parent][start:], *([] if token == end else [token])]
                    found = [*finished[row], (total[row, candidate] / length, text)]
                    finished[row] = sorted(found, key=lambda each: -each[0])[:k]
                elif not ends and kept < k:
                    beam = row * k + kept
                    chosen[beam], parents[beam] = token, parent
                    following[beam], scores[row, kept] = [*texts[parent], token], total[row, candidate]
                    kept += 1
            best_left = scores[row, 0] / length
            active[row] = active[row] and (len(finished[row]) < k or best_left > finished[row][-1][0])
        if length == config.max_tokens or not any(active):
            break
        texts = following
        logits = step(chosen, length - 1, parents)
    return [found[0][1] for found in finished]


def translate(
    model: keras.Model | SavedRun | Run | str | Path,
    texts: str | Sequence[str],
    *,
    beams: int = 1,
    max_tokens: int = 32,
    tokenizer: Tokenizer | str | Path | None = None,
) -> list[str]:
    """Translate each text with a seq2seq or T5 model, by beam search.

    One beam is greedy decoding. T5's translations are ranked as in `generate`, by their mean log probability
    per token; seq2seq's by their total log probability, Sutskever et al. 2014, arXiv:1409.3215, section 3.2.
    A translation ends with the model's end token or after `max_tokens`. Tokens are bytes unless a `tokenizer`
    is given; `model` may also be a run of `zoo.train` or its path, which includes its tokenizer. Raises
    WrongConfiguration for another kind of model, an empty input, or numbers below 1.
    """
    model = runs.model_of(model)
    shapes = signature.input_shapes(model)
    if not (isinstance(shapes, dict) and "decoder_token_ids" in shapes):
        raise WrongConfiguration(
            f"translate: {model.name} takes {shapes}; expected an encoder-decoder, seq2seq or T5, which "
            "takes token_ids and decoder_token_ids"
        )
    beams = integer("translate", "beams", beams)
    max_tokens = integer("translate", "max_tokens", max_tokens)
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise WrongConfiguration("translate: no text; expected at least 1")
    reader = tokenizers.resolve(tokenizer) or _usual_tokenizer(model)
    if _attentions(model):
        return generate(model, texts, max_tokens, temperature=0, beams=beams, tokenizer=reader)
    reader.check(model)
    source = Sequences(texts, reader.encode)[:]
    written, _ = search(model, source, beams=beams, max_tokens=max_tokens, tokenizer=reader)
    return [reader.decode(tokens) for tokens in written[:, 0]]


# Without a cache: the recurrent encoder-decoder


def search(
    model: keras.Model,
    source: np.ndarray,
    *,
    beams: int,
    max_tokens: int,
    tokenizer: sequences.Tokenizer = BYTE_TOKENIZER,
) -> tuple[np.ndarray, np.ndarray]:
    """(b, n) tokens -> what was written (b, beams, max_tokens), the likeliest first, and log p of each.

    Every step computes all `max_tokens`: one shape, so that nothing is compiled twice.
    """
    predict = _attribute(model, "_zoo_predictor", _predictor)
    count = len(source)
    read = backends.tensors(np.repeat(source, beams, axis=0))  # (b beams, n)
    seen = np.full((count * beams, max_tokens + 1), PADDING, np.int32)  # the beginning, and what was written
    seen[:, 0] = begin_of(tokenizer)
    scores = np.full((count, beams), -np.inf)
    scores[:, 0] = 0  # the beams start out alike: one of them counts
    ended = np.zeros(count * beams, bool)
    for step in range(max_tokens):
        inputs = {"token_ids": read, "decoder_token_ids": backends.tensors(seen[:, :-1].copy())}
        logits = ops.convert_to_numpy(predict(inputs))[:, step].astype(np.float64)  # (b beams, v)
        log_p = _log_softmax(logits)
        log_p[ended] = -np.inf
        log_p[ended, PADDING] = 0  # what has ended goes on with nothing, for certain
        vocabulary = log_p.shape[1]
        total = (scores.reshape(-1, 1) + log_p).reshape(count, -1)  # (b, beams v)
        best = np.argsort(-total, axis=1, kind="stable")[:, :beams]
        scores = np.take_along_axis(total, best, axis=1)
        parents = (best // vocabulary + np.arange(count)[:, None] * beams).ravel()
        tokens = (best % vocabulary).ravel()
        seen, ended = seen[parents], ended[parents] | (tokens == end_of(tokenizer))
        seen[:, step + 1] = tokens
        if ended.all():
            break
    return seen[:, 1:].reshape(count, beams, max_tokens), scores
