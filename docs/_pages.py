"""The pages that are written when the site is built: models/ from the registry's cards and their files,
reference/ from the names that `zoo` and its modules offer, whose text Sphinx takes from their docstrings,
chapters/ from the notebooks.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import _chapters
import _math
import _measured
from _figures import figures
from _measured import row

import zoo
from zoo import cli, registry, weights
from zoo.ladder import bounds
from zoo.training import recipes

ROOT = Path(__file__).parents[1]

# The reference's pages: what each is about, and the names of `zoo` on it.
REFERENCE = {
    "models": ("Models", "build list_models card Card example features register"),
    "training": (
        "Training",
        "train verify Run EarlyStopping Callback CSVLogger JSONLinesLogger TensorBoard WandB MLflow Trackio "
        "load_run SavedRun evaluate find_learning_rate LearningRates",
    ),
    "writing": ("Predicting, generating and exporting", "predict generate translate export"),
    "comparing": ("Comparing", "compare sweep parity diff diff_optimizers conform bench"),
    "errors": (
        "Errors",
        "ZooError UnknownModel UnknownName WrongConfiguration WeightsMismatch DataUnavailable BackendError "
        "NotSaved NonFinite WorkerLost",
    ),
}
# The public modules, and what on them is for users; nothing named stands for all that is documented.
MODULES = {
    "weights": "",
    "pretrained": "Trained of find",
    "tokenizers": "ByteTokenizer CharacterTokenizer SubwordTokenizer Tokenizer load train default",
    "tasks": "",
    "augment": "",
    "optimizers": "SGD Momentum Adam AdamW LAMB Optimizer",
    "schedules": "StepDecay CosineAnnealing WarmupDecay OneCycle Schedule plot",
    "layers": "",
    "lora": "LoRA add merge save load",
    "checkpoints": "Checkpoint read",
    "preprocessing": "Preprocessing",
    "runs": "find is_run",
    "show": "",
    "random": "",
    "backends": "Device LossScaling Backend installed current",
}


def write(docs: Path) -> None:
    """Write every generated page below `docs`, and nothing that has not changed."""
    pages: dict[str, str | bytes] = {
        "models/index.md": models(),
        "reference/index.md": reference(),
        "reference/_rungs.md": rungs(),
    }
    pages["reference/command-line.md"] = command_line()
    pages |= {f"models/{family}.md": model_page(family) for family in registry.FAMILIES}
    for name, (title, members) in REFERENCE.items():
        pages[f"reference/{name}.rst"] = names_page(title, members)
    pages |= {f"reference/{name}.rst": module_page(name) for name in MODULES}
    pages |= _chapters.pages()
    for path, text in pages.items():
        file, data = docs / path, text.encode() if isinstance(text, str) else text
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_bytes() != data:
            file.write_bytes(data)


def contents(pages: list[str]) -> list[str]:
    return ["```{toctree}", ":hidden:", "", *pages, "```", ""]


# The models


def families() -> dict[str, list[registry.Card]]:
    """The cards by the file that defines them."""
    cards: dict[str, list[registry.Card]] = {name: [] for name in registry.FAMILIES}
    for name in registry.list_models():
        card = registry.card(name)
        cards[card.file.stem].append(card)
    return cards


def title_of(family: str) -> tuple[str, str, str]:
    """A model file's docstring: its name, its idea, and the rest."""
    first, _, rest = inspect.cleandoc(sys.modules[f"zoo.models.{family}"].__doc__ or "").partition("\n\n")
    name, _, idea = " ".join(first.split()).partition(": ")
    return name, idea[:1].upper() + idea[1:], rest


def models() -> str:
    """Every model, a row each."""
    lines = ["# Models", "", *contents(list(registry.FAMILIES))]
    lines += [
        "Each family is one file and one page: idea, equations, sizes, parity, speed, blocks, definition.",
        "",
    ]
    lines += [row(["model", "parameters", "multiply-adds", "input", "year", "idea"])]
    lines += [row(["---", "---:", "---:", "---", "---", "---"])]
    for family, cards in families().items():
        for card in cards:
            facts = [
                f"{card.parameters:,}",
                f"{card.multiply_adds:,}{per(card)}",
                shape(card),
                str(card.year),
            ]
            lines.append(row([f"[`{card.name}`]({family}.md)", *facts, card.idea]))
    return "\n".join(
        [*lines, "", "For sequences of variable length, the multiply-adds are those of one time step.", ""]
    )


def per(card: registry.Card) -> str:
    return " per step" if None in card.input else ""


def shape(card: registry.Card) -> str:
    """The input of one example."""
    return "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}".join("n" if n is None else str(n) for n in card.input)


def model_page(family: str) -> str:
    """A family: idea, paper, equations, sizes, figures, signatures, recipe, source."""
    cards = families()[family]
    name, idea, rest = title_of(family)
    name = name.removeprefix("The ")
    lines = [f"# {name[:1].upper()}{name[1:]}", "", idea, "", linked(_math.equations(rest)), ""]
    lines += ["## Sizes", "", *sizes(cards), ""]
    lines += _measured.sections(family)
    lines += ["## Blocks", "", *blocks(cards), ""]
    lines += [
        "## Arguments",
        "",
        "The arguments of {py:func}`zoo.build` besides the model's name.",
        "",
        "```{eval-rst}",
    ]
    for builder in dict.fromkeys(card.builder for card in cards):
        lines += [f".. autofunction:: {builder.__module__}.{builder.__qualname__}", ""]
    source = cards[0].file
    lines += ["```", "", "## Definition", "", f"`zoo/models/{source.name}`, the whole file.", ""]
    return "\n".join(
        [*lines, f"```{{literalinclude}} ../../zoo/models/{source.name}", ":language: python", "```", ""]
    )


def linked(text: str) -> str:
    """arXiv's numbers as links."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def sizes(cards: list[registry.Card]) -> list[str]:
    """The variants as a table, and what holds for each."""
    extra: dict[str, Callable[[registry.Card], Any]] = {
        "tokens": lambda card: card.tokens,
        "receptive field": lambda card: card.receptive_field,
        "resized to": lambda card: card.preprocessing and card.preprocessing.resize,
    }
    extra = {title: read for title, read in extra.items() if any(read(card) for card in cards)}
    head = ["model", "parameters", "multiply-adds", "input", *extra, "arguments"]
    lines = [row(head), row(["---", "---:", "---:", "---", *("---:" for _ in extra), "---"])]
    for card in cards:
        settings = ", ".join(f"`{k}={getattr(v, '__name__', v)}`" for k, v in card.config.items())
        facts = [f"`{card.name}`", f"{card.parameters:,}", f"{card.multiply_adds:,}{per(card)}", shape(card)]
        lines.append(row([*facts, *(str(read(card) or "") for read in extra.values()), settings]))
    for paper, url in dict.fromkeys((card.paper, card.url) for card in cards):
        lines += ["", f"[{paper}]({url})"]
    for task, name in dict.fromkeys((card.task, card.recipe) for card in cards):
        who = [f"`{card.name}`" for card in cards if (card.task, card.recipe) == (task, name)]
        recipe = recipes.recipe(name)
        rest = [field for field in fields(recipe) if field.name not in ("optimizer", "settings")]
        facts = [(f.name.replace("_", " "), getattr(recipe, f.name)) for f in rest]
        options = ", ".join(f"{key} {value}" for key, value in facts if value)
        subject = "Trained" if len(who) == len(cards) else f"{', '.join(who)}: trained"
        lines += [
            "",
            f"{subject} by default on the task `{task}` with the recipe `{name}`: `{recipe}`, {options}.",
        ]
    prepared = [card.preprocessing for card in cards if card.preprocessing]
    for interpolation, mean, deviation in dict.fromkeys((p.interpolation, p.mean, p.std) for p in prepared):
        lines += [
            "",
            f"Preprocessing: the shorter side is resized to the size in the table ({interpolation}), the "
            f"centre is cropped, the mean {mean} is subtracted, and the result is divided by the standard "
            f"deviation {deviation}.",
        ]
    return lines


def blocks(cards: list[registry.Card]) -> list[str]:
    """Figures of the variants that are built differently, not only larger, a section each."""
    chosen: dict[str, registry.Card] = {}
    for card in cards:
        kind = [v for v in card.config.values() if callable(v) or isinstance(v, str | bool)]
        chosen.setdefault(f"{card.builder} {kind}", card)
    lines = [
        "A box is a layer with the operations that follow it. It shows the shape of the output, the layer's "
        "name and its number of parameters.",
        "",
    ]
    for card in chosen.values():
        model = registry.build(card.name)
        layouts = dict.fromkeys(scheme.name for scheme in weights.SCHEMES if scheme.suits(model))
        lines += [f"### {card.name}", "", "```{raw} html", '<div class="zoo-figures">']
        lines += [f"<figure><figcaption>{title}</figcaption>{svg}</figure>" for title, svg in figures(model)]
        lines += ["</div>", "```", ""]
        lines += [
            f"Pretrained weights can be loaded with the parameter names of {', '.join(layouts)}. "
            f"`zoo info {card.name}` lists the layers.",
            "",
        ]
    return lines


# The reference


def reference() -> str:
    """Every public name of `zoo`, a line each."""
    homes = {name: page for page, (_, names) in REFERENCE.items() for name in names.split()}
    missing = set(dir(zoo)) - set(homes) - set(MODULES) - {"use"}
    assert not missing, f"docs/_pages.py: no page of the reference has {', '.join(sorted(missing))}"
    lines = ["# Reference", "", *contents([*REFERENCE, *MODULES, "command-line"])]
    lines += ["The names in `zoo`. `import zoo` imports no framework before the first model is built.", ""]
    lines += [row(["name", "description"]), row(["---", "---"])]
    lines.append(row(["{py:obj}`zoo.use`", first_line(zoo.use)]))
    lines += [row([f"{{py:obj}}`zoo.{name}`", first_line(getattr(zoo, name))]) for name in homes]
    lines += [row([f"[`zoo.{name}`]({name}.rst)", first_line(getattr(zoo, name))]) for name in MODULES]
    lines.append(row(["[`zoo`](command-line.md)", "The commands and their options."]))
    return "\n".join([*lines, ""])


def first_line(thing: Any) -> str:
    """The first paragraph of a docstring."""
    return inspect.cleandoc(thing.__doc__ or "").partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def titled(title: str) -> list[str]:
    return [title, "=" * len(title), ""]


def names_page(title: str, members: str) -> str:
    """Functions and classes of `zoo` itself."""
    return "\n".join([*titled(title), *documented("zoo", members)])


def module_page(name: str) -> str:
    """What a public module offers."""
    lines = [*titled(f"zoo.{name}"), f".. automodule:: zoo.{name}"]
    if not MODULES[name]:
        return "\n".join([*lines, "   :members:", ""])
    use = ["", ".. autofunction:: zoo.use", ""] if name == "backends" else [""]
    return "\n".join([*lines, *use, *documented(f"zoo.{name}", MODULES[name])])


def documented(module: str, members: str) -> list[str]:
    """A directive for each name."""
    lines = []
    for name in members.split():
        if inspect.isclass(getattr(sys.modules[module], name)):
            lines += [f".. autoclass:: {module}.{name}", "   :members:", ""]
        else:
            lines += [f".. autofunction:: {module}.{name}", ""]
    return lines


def command_line() -> str:
    """What the command line says of itself."""
    command = [sys.executable, "-m", "typer", "zoo.cli", "utils", "docs", "--name", "zoo"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    text = re.sub(r"\*\*Commands\*\*:.*?(?=^## )", "", text, count=1, flags=re.DOTALL | re.MULTILINE)
    text = text.replace(
        cli.STATUS, "Exit statuses, JSON and completion are documented in [The command line](../cli.md)."
    )
    return text.replace("# `zoo`", "# Commands", 1).replace("&#x27;", "'")


# The ladder


def rungs() -> str:
    """The table of bounds, and what is known not to hold."""
    lines = ["| rung | claim | float32 | float64 |", "| --- | --- | --- | --- |"]
    for rung in bounds.RUNGS:
        limits = [
            "the\N{NO-BREAK SPACE}floor"
            if b is None
            else f"{b:g}"
            if b > 1
            else f"{b:.0e}".replace("e-0", "e-")
            if b
            else "equal"
            for b in (rung.float32, rung.float64)
        ]
        lines.append(row([f"{rung.number} {rung.name}", rung.claim, *limits]))
    lines += ["", "Known gaps:" if bounds.GAPS else "There are no known gaps.", ""]
    lines += [
        f"- `{g.model}`, rung {g.rung}, {g.dtype}: {g.reason} ([upstream]({g.upstream}))" for g in bounds.GAPS
    ]
    return "\n".join(lines)
