"""Training: a plan, a start, and one loop for two engines that make the steps.

`keras` is `compile` and `fit`. `native` is the framework's own step (`zoo.backends`): torch's eager loop or
its traced graph, `jax.jit` with optax, `tf.function`. Both see the same batches in the same order and give
the same losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo import backends, storage
from zoo._lazy import keras
from zoo.augment import AugmentSpec
from zoo.lora import LoRA
from zoo.tasks import Tokenizer
from zoo.training.callbacks import Callback
from zoo.training.engines import ENGINES
from zoo.training.loggers import CSVLogger, JSONLinesLogger, MLflow, TensorBoard, Trackio, WandB
from zoo.training.loop import Loop
from zoo.training.plan import Options, plan_run
from zoo.training.run import Run
from zoo.training.startup import start
from zoo.training.stopping import EarlyStopping
from zoo.training.workers import check_data, check_options

__all__ = [
    "ENGINES",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "JSONLinesLogger",
    "MLflow",
    "Run",
    "TensorBoard",
    "Trackio",
    "WandB",
    "train",
]

Tensor = Any


def train(
    model: str | keras.Model,
    task: Any = None,
    *,
    engine: str = "native",
    mode: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    batch_size: int | None = None,
    optimizer: Any = None,
    schedule: Any = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
    accumulate: int | None = None,
    ema: float | None = None,
    layer_decay: float | None = None,
    head_lr: float | None = None,
    freeze: str | Sequence[str] | None = None,
    unfreeze: int | str | None = None,
    lora: LoRA | int | str | None = None,
    dtype: str | None = None,
    exact: bool | None = None,
    recompute: bool = False,
    loss: str | Callable[[Tensor, Tensor], Tensor] | None = None,
    label_smoothing: float | None = None,
    class_weights: str | Mapping[Any, float] | Sequence[float] | None = None,
    validation: Any = None,
    augment: AugmentSpec | None = None,
    tokenizer: Tokenizer | str | Path | None = None,
    errors: str = "stop",
    readers: int | None = None,
    on_nan: str = "stop",
    early_stopping: EarlyStopping | int | None = None,
    train_metrics: bool = False,
    seed: int | None = None,
    checkpoint: str | Path | None = None,
    out: str | Path | None = None,
    checkpoint_every: int | str | None = None,
    keep: int | None = None,
    keep_best: str | None = None,
    resume: str | Path | None = None,
    weights: str | Path | None = None,
    progress: bool | str | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
    callbacks: Sequence[Callback | keras.callbacks.Callback] = (),
) -> Run:
    """Train a model, by its name or one you built, and return the run.

    `task` is a name (`zoo.tasks.TASKS`), the path of a folder or a CSV of images (`zoo.tasks.folder`), the
    path or URL of shards, "s3://bucket/photos" (docs/shards.md), a pair of arrays (x, y), or batches (x, y):
    a tf.data.Dataset, torch DataLoader, Keras PyDataset, generator, or a function that returns one
    (`zoo.tasks.streams`); None is the model's own task. `validation` is held-out data for arrays and batches,
    of the same two kinds. Unspecified options come from the model's recipe, or with `weights`
    (`zoo.weights.load`) from its recipe for fine-tuning; a head with other classes is then initialized anew.

    - `engine` "native" or "keras"; `mode` of the native engine, see `zoo.backends.MODES`.
    - `epochs` or `steps`, which overrides it; `batch_size`; `seed` of initial weights and of the order of
      examples (batches of your own keep their order); `steps_per_epoch` for batches of unknown length.
    - `optimizer`: one of `zoo.optimizers`, or as text, "Momentum(0.1, nesterov=True)"; `schedule` of its
      rate: one of `zoo.schedules`, or as text, "OneCycle(0.01)", whose length is then the run's.
    - `learning_rate`, `weight_decay`, `clip_norm` (of all gradients together), `accumulate` (batches per
      update), `ema` (momentum of averaged weights): settings of the recipe's optimizer, or of one as text.
    - `layer_decay`: the factor of the rate from a block to the one below, 0.75; `head_lr`: the head's rate.
    - `freeze`: patterns of layer names, or "backbone", all but the head; `unfreeze` "1 epoch": after each
      such interval one more frozen block becomes trainable, from the top; `dtype`: a Keras dtype policy.
    - `lora`: low-rank adapters (`zoo.lora`) by their rank, 8, or "LoRA(8, alpha=16, layers='*_query')"; all
      but these and a classification head are frozen.
    - `exact`: the same bits on every framework, at a multiple of the time; by default that of `zoo.use`.
    - `recompute`: keep the activations between about sqrt(n) segments of the model's n layers, and compute
      the others again in the backward pass: less memory, up to a third more time, the same numbers.
    - `loss`: a name or a function (y, logits); `label_smoothing` (Szegedy et al. 2016, section 7);
      `class_weights`: "balanced", or a number by class (`zoo.training.weighting`).
    - `augment`: transforms of `zoo.augment`, a list or as text, "HorizontalFlip, MixUp(0.2)".
    - `tokenizer` of texts: one of `zoo.tokenizers`, or what its `load` takes; bytes by default.
    - `errors` "skip" leaves out unreadable images; `readers`: threads that read and augment examples ahead.
    - `early_stopping`: an `EarlyStopping`, or its patience.
    - `on_nan`: at a loss or gradient that is not finite, "stop" (`NonFinite`), "skip" the step, or "rollback"
      to the last good state and continue with the batches after those already used.
    - `train_metrics`: after each epoch, measure the task's metric on the training examples too, without
      augmentation; the mean loss of the epoch's steps is in `run.history` anyway.
    - `out`: a folder to save the run in after every epoch (`zoo.runs`), or `checkpoint`: a file; also
      `checkpoint_every` 500 (steps) or "10 min"; `keep` the last 3 of them under numbered names;
      `keep_best` "accuracy", or another held-out metric: the best epoch's too, as NAME-best.safetensors.
    - `resume`: such a folder or file, from any framework and engine; "auto": the newest undamaged checkpoint
      of `out` or `checkpoint`, else a new run. `steps` and `epochs` count from the beginning. Model, task,
      loss, seed, batch size and augmentation are the saved run's; others are refused. Optimizer and early
      stopping are the saved run's unless given. "auto" returns a run that has ended. A schedule ends where
      the saved run was to end: to train for longer, give a `schedule` for all steps.
    - `progress`: a bar, by default on a terminal; "lines" for a line an epoch, on standard error.
    - `watch(step, loss)`: called after every step; `callbacks`: `zoo.Callback` or `keras.callbacks` objects.

    On several workers (`zoo.use(..., workers=)`, docs/scale.md), each of which computes its part of every
    batch, the losses are those of one. Worker 0 alone writes files and calls `watch` and `callbacks`.

    Ctrl-C, SIGTERM and SIGUSR1 stop after the current step; the run so far is returned. Raises ZooError's
    kinds, before any work, for a wrong name or argument, or data that do not fit the model; then NotSaved and
    NonFinite.
    """
    arguments = locals()
    options = Options(**{name: arguments[name] for name in Options.names()})
    check_options(options, backends.workers())
    plan = plan_run(model, task, options)
    check_data(plan, backends.workers())
    if backends.worker():  # worker 0 alone writes
        plan = replace(plan, folder=None, checkpoint=None)
    with storage.held("train", plan.checkpoint), backends.exactly(plan.options.exact):
        return Loop(start(plan)).finish()
