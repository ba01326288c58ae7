"""Training: a plan, a start, and one loop for two engines that make the steps.

`keras` is `compile` and `fit`. `native` is the framework's own step (`zoo.backends`): torch's eager loop or
its traced graph, `jax.jit` with optax, `tf.function`. Both see the same batches in the same order and give
the same losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zoo import storage
from zoo._lazy import keras
from zoo.augment import AugmentSpec
from zoo.tasks import Task, Tokenizer
from zoo.training.callbacks import Callback, CSVLogger, JSONLinesLogger
from zoo.training.engines import ENGINES
from zoo.training.loop import Loop
from zoo.training.plan import Options, plan_run
from zoo.training.run import Run
from zoo.training.startup import start
from zoo.training.stopping import EarlyStopping

__all__ = ["ENGINES", "CSVLogger", "Callback", "EarlyStopping", "JSONLinesLogger", "Run", "train"]

Tensor = Any


def train(
    model: str | keras.Model,
    task: str | Path | Task | tuple[Any, Any] | None = None,
    *,
    engine: str = "native",
    mode: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    optimizer: Any = None,
    schedule: Any = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
    accumulate: int | None = None,
    ema: float | None = None,
    freeze: str | Sequence[str] | None = None,
    dtype: str | None = None,
    loss: str | Callable[[Tensor, Tensor], Tensor] | None = None,
    label_smoothing: float | None = None,
    validation: tuple[Any, Any] | None = None,
    augment: AugmentSpec | None = None,
    tokenizer: Tokenizer | str | Path | None = None,
    errors: str = "stop",
    on_nan: str = "stop",
    early_stopping: EarlyStopping | int | None = None,
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
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train a model, by its name or one you built, and return the run.

    `task` is a name (`zoo.tasks.TASKS`), the path of a folder or a CSV of images (`zoo.tasks.folder`), or a
    pair of arrays (x, y), with `validation` another; None takes the card's. Unspecified options come from the
    card's recipe, or with `weights` (`zoo.weights.load`) from its fine-tuning recipe; a head of other classes
    is then initialized anew.

    - `engine` "native" or "keras"; `mode` of the native engine, see `zoo.backends.MODES`.
    - `epochs` or `steps`, which overrides it; `batch_size`; `seed` of initial weights and batches.
    - `optimizer`: one of `zoo.optimizers`, or in words, "Momentum(0.1, nesterov=True)"; `schedule` of its
      rate: one of `zoo.schedules`, or in words, "OneCycle(0.01)", whose length is then the run's.
    - `learning_rate`, `weight_decay`, `clip_norm` (of all gradients together), `accumulate` (batches per
      update), `ema` (momentum of averaged weights): settings of the recipe's optimizer, or of one in words.
    - `freeze`: patterns of layer names, or "backbone", all but the head; `dtype`: a Keras dtype policy.
    - `loss`: a name or a function (y, logits); `label_smoothing` (Szegedy et al. 2016, section 7).
    - `augment`: transforms of `zoo.augment`, a list or in words, "HorizontalFlip, MixUp(0.2)".
    - `tokenizer` of texts: one of `zoo.tokenizers`, or what its `load` takes; bytes by default.
    - `errors` "skip" leaves out unreadable images; `early_stopping`: an `EarlyStopping`, or its patience.
    - `on_nan`: at a loss or gradient that is not finite, "stop", "skip" the step, or "rollback" to the last
      good state, and on with the data after the bad block (`NonFinite`).
    - `out`: a folder to save the run in after every epoch (`zoo.runs`), or `checkpoint`: a file; also
      `checkpoint_every` 500 (steps) or "10 min"; `keep` the last 3 of them under numbered names;
      `keep_best` "accuracy", or another held-out metric: the best epoch's too, as NAME-best.safetensors.
    - `resume`: such a folder or file, of any framework and engine; "auto": the newest whole checkpoint of
      `out` or `checkpoint`, else a new run. `steps` and `epochs` count from the beginning; model, task,
      loss, seed, batch size and augmentation are the saved run's, unless given optimizer and early stopping,
      too; others are refused. "auto" returns a run that has ended. A schedule ends where the saved run was to
      end: to train for longer, give a `schedule` for all steps.
    - `progress`: a bar, by default on a terminal; "lines" for a line an epoch, on standard error.
    - `watch(step, loss)`: called after every step; `callbacks`: `zoo.Callback` objects.

    Ctrl-C, SIGTERM and SIGUSR1 stop after the current step; the run so far is returned. Raises ZooError's
    kinds, before any work, for a wrong name or argument, or data that do not fit the model; then NotSaved and
    NonFinite.
    """
    arguments = locals()
    plan = plan_run(model, task, Options(**{name: arguments[name] for name in Options.names()}))
    with storage.held("train", plan.checkpoint):
        return Loop(start(plan)).finish()
