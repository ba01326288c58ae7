"""The options of `zoo train` in groups, as its help shows them."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

GROUPS = {
    "Data": ("task", "augment", "class_weights", "tokenizer", "errors", "readers"),
    "Length": ("epochs", "steps", "batch_size", "early_stopping"),
    "Optimizer": (
        "optimizer", "schedule", "learning_rate", "weight_decay", "clip_norm", "accumulate", "ema",
        "label_smoothing", "on_nan",
    ),
    "Fine-tuning": ("weights", "freeze", "unfreeze", "layer_decay", "head_lr", "lora"),
    "Engine and machine": (
        "backend", "engine", "mode", "dtype", "exact", "recompute", "device", "threads", "seed",
        "workers", "worker_timeout", "shard",
    ),
    "Checkpoints": ("out", "save", "checkpoint", "checkpoint_every", "keep", "keep_best", "resume"),
    "Output": ("log", "train_metrics", "save_config", "quiet", "as_json", "help"),
}  # fmt: skip


class GroupedCommand(TyperCommand):
    """A command whose help has a section for each group of options."""

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        records = {p.name: record for p in self.get_params(ctx) if (record := p.get_help_record(ctx))}
        arguments = [p.name for p in self.get_params(ctx) if p.param_type_name == "argument"]
        for title, names in {"Arguments": arguments, **GROUPS}.items():
            with formatter.section(title):
                formatter.write_dl([records[name] for name in names if name in records])
