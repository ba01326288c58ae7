"""zoo lr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import zoo.cli.terminal as terminal
from zoo.cli.options import (
    BackendOption,
    BatchOption,
    DeviceOption,
    EngineOption,
    ErrorsOption,
    JsonOption,
    Model,
    ModeOption,
    QuietOption,
    RunSeedOption,
    ThreadsOption,
    TokenizerOption,
    WeightsOption,
    count,
    number,
    option,
)
from zoo.cli.training import (
    AugmentOption,
    DecayOption,
    DtypeOption,
    FreezeOption,
    LayerDecayOption,
    OptimizerOption,
    TaskArgument,
)

if TYPE_CHECKING:
    from zoo.training.finder import LearningRates

HEIGHT, WIDTH = 12, 60  # characters of the curve


def find_learning_rate(
    ctx: typer.Context,
    model: Model,
    task: TaskArgument = None,
    lowest: Annotated[float, number("First learning rate.")] = 1e-7,
    highest: Annotated[float, number("Last learning rate.")] = 10.0,
    steps: Annotated[int, count("Steps between them.", least=10)] = 100,
    backend: BackendOption = None,
    engine: EngineOption = "native",
    mode: ModeOption = None,
    batch_size: BatchOption = None,
    seed: RunSeedOption = None,
    optimizer: OptimizerOption = None,
    weight_decay: DecayOption = None,
    layer_decay: LayerDecayOption = None,
    freeze: FreezeOption = None,
    dtype: DtypeOption = None,
    augment: AugmentOption = None,
    tokenizer: TokenizerOption = None,
    errors: ErrorsOption = "stop",
    weights: WeightsOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    out: Annotated[Path | None, option("The curve as a figure: .png, .svg or .pdf.", "PATH")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find a learning rate from the losses of a short run in which it rises."""
    from zoo import backends, registry, storage, tokenizers

    given = dict(ctx.params)
    name, reader = registry.card(model).name, tokenizers.resolve(tokenizer)
    if out is not None:
        storage.check_file("--out", out)
    backends.prefer(backend, device=device, threads=threads)
    from zoo.training.finder import find_learning_rate

    left_out = ("model", "task", "backend", "device", "threads", "out", "quiet", "as_json", "tokenizer")
    options = {key: value for key, value in given.items() if key not in left_out}
    with terminal.aside(quiet=quiet):
        found = find_learning_rate(name, task, tokenizer=reader, **options)
    if out is not None:
        from zoo.show import learning_rates

        learning_rates(found).save(out)
        terminal.note(f"{out}: the curve", quiet=quiet)
    if as_json:
        terminal.print_json(facts(name, found))
    else:
        print("\n".join(curve(found)))
        print(
            f"{name}, {found.recipe}: the loss falls fastest at {found.suggestion:.2g} (--lr "
            f"{found.suggestion:.2g}), and is lowest at {found.lowest:.2g}"
        )


def facts(model: str, found: LearningRates) -> dict[str, object]:
    """What was found, for --json."""
    lists = {key: getattr(found, key).tolist() for key in ("rates", "losses", "smoothed")}
    names = ("recipe", "suggestion", "lowest", "diverged")
    return {"model": model, **lists, **{key: getattr(found, key) for key in names}}


def curve(found: LearningRates) -> list[str]:
    """The smoothed losses over the logarithm of the rate, a line for each row; a column | at the suggestion.

    Losses above that of the first half of the rates are drawn at the upper edge.
    """
    import numpy as np

    smoothed, logs = found.smoothed, np.log10(found.rates)
    columns = np.interp(np.linspace(logs[0], logs[-1], WIDTH), logs, smoothed)
    low, high = columns.min(), columns[: WIDTH // 2].max()
    rows = np.clip(np.round((high - columns) / ((high - low) or 1.0) * (HEIGHT - 1)), 0, HEIGHT - 1)
    mark = round((np.log10(found.suggestion) - logs[0]) / (logs[-1] - logs[0]) * (WIDTH - 1))
    lines = []
    for row in range(HEIGHT):
        label = f"{high:8.3g}" if row == 0 else f"{low:8.3g}" if row == HEIGHT - 1 else " " * 8
        cells = ["*" if rows[i] == row else "|" if i == mark else " " for i in range(WIDTH)]
        lines.append(f"{label} {''.join(cells)}".rstrip())
    left, right = f"{found.rates[0]:.1g}", f"{found.rates[-1]:.1g}"
    return [*lines, f"{'':8} {left}{'learning rate':^{WIDTH - len(left) - len(right)}}{right}"]
