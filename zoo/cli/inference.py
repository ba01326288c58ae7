"""zoo predict, generate, show, export: a trained model at work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

import zoo.cli.completion as completion
import zoo.cli.terminal as terminal
from zoo.cli.options import (
    BackendOption,
    DeviceOption,
    JsonOption,
    ModelOrRun,
    RunOption,
    SeedOption,
    ThreadsOption,
    TokenizerOption,
    WeightsOption,
    check_own_weights,
    count,
    number,
    option,
    subject_of,
)
from zoo.errors import UnknownName, WrongConfiguration, nearest


def predict(
    model: ModelOrRun = None,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Photographs, one or several; for a run that learned from texts or speech, texts or "
            "recordings.",
            show_default=False,
        ),
    ] = None,
    run: RunOption = None,
    weights: Annotated[
        str | None,
        option(
            "Pretrained ones of the zoo, a file of anyone's, or hf://owner/name; random without.", "NAME|PATH"
        ),
    ] = None,
    top: Annotated[int, count("Classes to show.")] = 5,
    labels: Annotated[
        Path | None,
        option("File of the classes' names, one a line, as many as classes; a run has its own.", "PATH"),
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="The small configuration of the tests.")] = False,
    backend: BackendOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify photographs, texts or recordings."""
    from zoo import backends, registry

    subject, words = subject_of(
        model, inputs, run, "zoo predict MODEL PHOTO, or zoo predict --run PATH PHOTO"
    )
    if not words:
        raise WrongConfiguration(
            "nothing to classify; zoo predict MODEL PHOTO, or zoo predict --run PATH PHOTO"
        )
    changes = dict(registry.card(subject).small) if small and isinstance(subject, str) else {}
    if labels is not None:
        changes.pop("classes", None)  # as many as names
    backends.prefer(backend, device=device, threads=threads)
    from zoo.prediction import predict

    with terminal.aside(quiet=False):
        found = predict(subject, words, weights=weights, top=top, labels=labels, **changes)
    kind = "photo" if isinstance(subject, str) else terminal.INPUTS.get(subject.kind, "photo")
    if as_json:
        named = [[{"class": label, "probability": p} for label, p in classes] for classes in found]
        terminal.print_json([{kind: word, "classes": row} for word, row in zip(words, named, strict=True)])
    else:
        terminal.classes(kind, words, found)


def generate(
    model: ModelOrRun = None,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="The text to continue; for T5 and translation, the text to answer.",
            show_default=False,
        ),
    ] = None,
    run: RunOption = None,
    weights: WeightsOption = None,
    tokenizer: TokenizerOption = None,
    task: Annotated[
        str | None,
        option(
            "Built as zoo train builds it for this task; the model's own by default.",
            "TASK",
            complete=completion.tasks,
        ),
    ] = None,
    max_tokens: Annotated[int, count("Maximum of new tokens.")] = 100,
    temperature: Annotated[
        float | None, number("0 is greedy decoding; 1 by default, 0 for translation.", min=0.0)
    ] = None,
    top_k: Annotated[int | None, count("Sample from this many tokens only.")] = None,
    top_p: Annotated[
        float | None,
        number("Sample from the smallest set of tokens with this probability.", min=0.0, max=1.0),
    ] = None,
    beams: Annotated[int, count("Beam width; 1 is no beam search.")] = 1,
    repetition_penalty: Annotated[float, number("Divides the scores of tokens seen.")] = 1.0,
    stop: Annotated[list[str] | None, option("A text to end before; may be repeated.", "TEXT")] = None,
    seed: Annotated[int, count("Of the tokens that are drawn.", least=0)] = 0,
    backend: BackendOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Generate text: continue a prompt, or translate it."""
    from zoo import backends, tokenizers

    usage = 'zoo generate MODEL "PROMPT", or zoo generate --run PATH "PROMPT"'
    subject, words = subject_of(model, [prompt] if prompt is not None else [], run, usage)
    if len(words) != 1:
        raise WrongConfiguration(f"{len(words)} prompts; {usage}")
    reader = tokenizers.resolve(tokenizer)
    _check_writes(subject, weights, task)
    backends.prefer(backend, device=device, threads=threads)
    settings: dict[str, Any] = {
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "beams": beams, "stop": stop,
        "seed": seed, "repetition_penalty": repetition_penalty, "tokenizer": reader,
    }  # fmt: skip
    if isinstance(subject, str):
        built, pairs = _writer(subject, weights, task, reader, seed), False
    else:
        built, pairs = subject.model, subject.kind == "pairs"
    _print_generated(built, words[0], max_tokens, settings, pairs)


def _check_writes(subject: Any, weights: str | None, task: str | None) -> None:
    """Raise WrongConfiguration for a model that is no language model, and for a run with other weights."""
    from zoo import registry

    if isinstance(subject, str):
        card = registry.card(subject)
        if "vocabulary" not in card.arguments or card.arguments.get("cell"):
            raise WrongConfiguration(f"{card.name} does not generate text; gpt-mini and t5-mini do")
    else:
        check_own_weights(subject, weights=weights, task=task)


def _writer(model: str, weights: str | None, task: str | None, reader: Any, seed: int) -> Any:
    """A model of texts by its name, with its weights, built for its task's or its tokenizer's tokens."""
    from zoo import pretrained, registry
    from zoo.training.plan import plan_model

    card = registry.card(model)
    plan = plan_model(card.name, task or card.task, weights, tokenizer=reader)
    usual = card.arguments["vocabulary"]  # as published weights have it
    if reader and task is None and reader.fits(usual) and pretrained.find(card.name, weights) is None:
        plan = replace(plan, arguments={**plan.arguments, "vocabulary": usual})
    if weights is None:
        terminal.note(f"{card.name} has random weights: what it writes is chance. Give --weights or a run.")
    return plan.load(seed)


def _print_generated(model: Any, prompt: str, max_tokens: int, settings: dict[str, Any], pairs: bool) -> None:
    """Print a text as it is generated; a translation, or what a beam search finds, at its end."""
    from zoo.generation import generate, translate
    from zoo.layers import signature

    sampled = any(settings[name] for name in ("temperature", "top_k", "top_p", "stop"))
    if pairs and not sampled and settings["repetition_penalty"] == 1:
        print(
            translate(
                model, prompt, beams=settings["beams"], max_tokens=max_tokens, tokenizer=settings["tokenizer"]
            )[0]
        )
        return
    settings["temperature"] = 1.0 if settings["temperature"] is None else settings["temperature"]
    if "decoder_token_ids" not in signature.input_shapes(model):
        print(prompt, end="")
    if settings["beams"] > 1:  # the seed is that of random weights: a search draws nothing
        print(generate(model, prompt, max_tokens, **{**settings, "seed": 0}))
        return
    generate(model, prompt, max_tokens, **settings, watch=lambda _, piece: print(piece, end="", flush=True))
    print()


def show(
    model: ModelOrRun = None,
    photo: Annotated[
        str | None, typer.Argument(metavar="PHOTO", help="An image.", show_default=False)
    ] = None,
    run: RunOption = None,
    what: Annotated[
        str,
        option(
            "grad-cam, feature-maps, filters, attention or attention-rollout.",
            "NAME",
            "--what",
            complete=completion.pictures,
        ),
    ] = "grad-cam",
    at: Annotated[str | None, option("Layer, e.g. stage1; `zoo info` lists them.", "NAME", "--at")] = None,
    label: Annotated[
        str | None, option("Class of grad-cam, a name or a number; the predicted one by default.", "CLASS")
    ] = None,
    weights: WeightsOption = None,
    out: Annotated[Path, option("The picture, a PNG.", "PATH")] = Path("zoo-show.png"),
    backend: BackendOption = None,
) -> None:
    """Draw what a model sees: Grad-CAM, maps, filters, attention."""
    from zoo import backends, storage

    usage = "zoo show MODEL PHOTO, or zoo show --run PATH PHOTO"
    subject, words = subject_of(model, [photo] if photo else [], run, usage)
    if what not in completion.PICTURES:
        raise UnknownName(f"no picture {what!r}; {nearest(what, completion.PICTURES)}")
    if len(words) != (what != "filters"):
        raise WrongConfiguration(f"{len(words)} photographs, expected {int(what != 'filters')}; {usage}")
    storage.check_file("show", out)
    backends.prefer(backend)
    picture = _picture(subject, words, what, at, label, weights)
    picture.save(out)
    print(f"{out}: {picture.title}")


def _picture(
    subject: Any, photos: list[str], what: str, at: str | None, label: str | None, weights: str | None
) -> Any:
    """What `zoo show` draws."""
    from zoo import preprocessing, show
    from zoo.training.plan import plan_model

    for photo in photos:
        preprocessing.load(photo, 3)  # raises, before a model is built, for what is no image
    if what in ("feature-maps", "filters") and at is None:
        raise WrongConfiguration(f"--what {what} takes the name of a layer, --at; `zoo info` lists them")
    classes: tuple[str, ...] = ()
    if isinstance(subject, str):
        if weights is None:
            terminal.note(f"{subject} has random weights: what it sees is chance. Give --weights or a run.")
        model = plan_model(subject, weights=weights).load()
    else:
        check_own_weights(subject, weights=weights)
        model, classes = subject.model, subject.classes
    if what == "grad-cam":
        return show.grad_cam(model, photos[0], _class_number(label, classes), at)
    if at is not None and what in ("feature-maps", "filters"):
        return show.filters(model, at) if what == "filters" else show.feature_maps(model, photos[0], at)
    return (show.attention if what == "attention" else show.attention_rollout)(model, photos[0])


def _class_number(label: str | None, classes: tuple[str, ...]) -> int | None:
    if label is None or label in classes:
        return None if label is None else classes.index(label)
    if label.isdecimal():
        return int(label)
    raise UnknownName(f"no class {label!r}; {nearest(label, classes) if classes else 'classes have numbers'}")


def export(
    model: ModelOrRun = None,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="PATH",
            help="The file: .onnx, .pt2, .keras, a new folder for a SavedModel; .safetensors, .npz or "
            ".weights.h5 for weights alone.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, option("The file, by name.", "PATH")] = None,
    format: Annotated[
        str | None, option("onnx, pt2, keras or saved_model; by the ending without.", "NAME")
    ] = None,
    layout: Annotated[
        str,
        option("torchvision, timm, transformers or zoo: whose names.", "NAME", complete=completion.layouts),
    ] = "zoo",
    run: RunOption = None,
    weights: WeightsOption = None,
    task: Annotated[
        str | None,
        option(
            "Built as zoo train builds it for this task, not in full size.", "TASK", complete=completion.tasks
        ),
    ] = None,
    backend: BackendOption = None,
    seed: SeedOption = 0,
) -> None:
    """Export a model or run to ONNX, torch.export, SavedModel, .keras; or its weights."""
    from zoo import artifacts, backends
    from zoo.weights import check_layout, files, save

    usage = "zoo export MODEL PATH, or zoo export --run RUN PATH"
    subject, words = subject_of(model, [str(each) for each in (file, out) if each is not None], run, usage)
    if len(words) != 1:
        raise WrongConfiguration(f"{len(words)} files to write; {usage}")
    out = Path(words[0])
    backends.prefer(backend)
    if (form := artifacts.format_of(out, format)) is None:
        files.check(out)
        check_layout(layout)
        built = _to_export(subject, weights, task, seed)
        save(built, out, layout)
        print(f"{out}: {built.name} by {layout}'s names, {out.stat().st_size / 1e6:,.1f} MB")
        return
    artifacts.check(out, form)
    with terminal.aside(quiet=True):
        found = artifacts.export(_to_export(subject, weights, task, seed), out, form)
    print(found)


def _to_export(subject: Any, weights: str | None, task: str | None, seed: int) -> Any:
    """The model of a run, or one built by its name, with its weights."""
    from zoo.training.plan import plan_model
    from zoo.weights import load

    if not isinstance(subject, str):
        check_own_weights(subject, weights=weights, task=task)
        return subject.model
    plan = plan_model(subject, task, weights)
    built = plan.build(seed)
    if weights is not None:
        print(load(built, weights, head="require"))
    return built
