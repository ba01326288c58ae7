"""The table of exported models on docs/howto/export.md: how far what was written is from the model.

    KERAS_BACKEND=torch python docs/_exports.py       # ONNX, torch.export; tensorflow or jax: SavedModel

Each family in its small configuration, at two batch sizes and two lengths; prints rows of the table.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import zoo
from zoo import artifacts, backends

MODELS = (
    "mlp", "lenet5", "alexnet", "vgg11-bn", "resnet18", "efficientnet-b0", "lstm", "gru", "birnn", "seq2seq",
    "speech", "bert-tiny", "gpt-nano", "t5-tiny", "vit-ti16",
)  # fmt: skip


def measured(name: str, format: str, folder: Path) -> str:
    """The difference, or that it is refused."""
    model = zoo.build(name, **zoo.card(name).small)
    try:
        found = zoo.export(model, folder / f"{name}{artifacts.FORMATS[format].ending}", format)
    except zoo.ZooError as error:
        print(f"{name}, {format}: {error}", flush=True)
        return "refused"
    return f"{found.difference:.0e}"


def main() -> None:
    """Print a row for each family."""
    warnings.simplefilter("ignore")
    here = backends.settle()
    formats = [name for name in ("onnx", "pt2", "saved_model") if here in artifacts.FORMATS[name].frameworks]
    print(f"| {here} | {' | '.join(formats)} |")
    with tempfile.TemporaryDirectory() as scratch:
        for name in MODELS:
            row = [measured(name, format, Path(scratch)) for format in formats]
            print(f"| `{name}` | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
