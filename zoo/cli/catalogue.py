"""zoo list, info, augment, doctor: what there is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import zoo.cli.completion as completion
import zoo.cli.terminal as terminal
from zoo import storage
from zoo.cli.options import FINDING, JsonOption, Model, count, option
from zoo.errors import UnknownModel, WrongConfiguration, nearest


def list_models(
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN", help='A shell pattern, e.g. "vit*".', autocompletion=completion.models
        ),
    ] = "*",
    as_json: JsonOption = False,
) -> None:
    """List the models, with their exact numbers of parameters."""
    from zoo import registry

    if not (names := registry.list_models(pattern)):
        near = nearest(pattern, registry.list_models())
        raise UnknownModel(f'no model matches "{pattern}"; {near}. Try a pattern, "{pattern}*"')
    cards = [registry.card(name) for name in names]
    if as_json:
        terminal.print_json([terminal.model_facts(card) for card in cards])
    else:
        terminal.models(cards)


def info(model: Model, as_json: JsonOption = False) -> None:
    """Show a model's card, its arguments, and its layers."""
    from zoo import registry

    card = registry.card(model)
    with terminal.aside(quiet=False):
        layers = terminal.layers(registry.build(card.name))
    if as_json:
        more = {name: getattr(card, name) for name in ("arguments", "receptive_field", "tokens")}
        prepared = card.preprocessing and asdict(card.preprocessing)
        facts = {**terminal.model_facts(card), **more, "preprocessing": prepared, "layers": layers}
        terminal.print_json(facts)
    else:
        terminal.model_page(card, layers)


def augment(
    photo: Annotated[
        Path | None, typer.Argument(metavar="PHOTO", help="An image; one of a temple by default.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        option('A row, e.g. "RandAugment(2, 9), CutMix"; may be repeated.', "TEXT", "--set"),
    ] = None,
    columns: Annotated[int, count("Epochs to draw.")] = 6,
    seed: Annotated[int, count("Of the random changes.", least=0)] = 0,
    out: Annotated[Path, option("The picture, a PNG.", "PATH")] = Path("zoo-augment.png"),
    show: Annotated[bool, typer.Option("--show", help="Open the picture.")] = False,
) -> None:
    """Draw what augmentation makes of a photograph."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from zoo.preprocessing import load, pixels
    from zoo.show.augmentation import EVERY, draw

    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise WrongConfiguration(f"augment: {out}: expected a file that ends in .png, or as Pillow writes it")
    storage.check_file("augment", out)
    temple, flower = load_sample_images().images
    first = temple if photo is None else pixels(load(photo, 3))
    picture = draw(first, flower, sets or EVERY, columns=columns, seed=seed)
    with storage.replacing(out) as part:
        picture.save(part)
    print(f"{out}: {picture.width} x {picture.height} pixels")
    if show:
        picture.show()


def doctor(as_json: JsonOption = False) -> None:
    """Show what each framework finds here, what to install, and the workers that it would join."""
    from zoo import backends
    from zoo.backends.world import describe
    from zoo.processes.frameworks import frameworks
    from zoo.processes.machine import environment

    here, found, world = environment(), frameworks(), describe()
    if as_json:
        terminal.print_json({"environment": here, "frameworks": found, "workers": world})
    else:
        terminal.machine(here, found, world)
    if "error" in (world or ()) or any("error" in found[name] for name in backends.installed()):
        raise typer.Exit(FINDING)
