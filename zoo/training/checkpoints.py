"""A training run in a file: saved on any framework by either engine, resumed on any other.

One safetensors file holds the model's variables by path ("model/head/kernel"), the optimizer state
("optimizer/momentum/head/kernel", see `zoo.optimizers.Optimizer.state_dict`), the losses so far, and in its
header the model's name, the seed, the batch size and the optimizer's description. Layer names are the zoo's
and not a counter's, so the paths are the same everywhere. The header has a digest of every array, and one of
itself, so that a file whose bits have changed is not resumed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from zoo import backends, storage
from zoo._lazy import keras, ops
from zoo.augment import format_transforms
from zoo.errors import DataUnavailable, WrongConfiguration, ZooError, shortlist
from zoo.tasks import Task
from zoo.training.run import Run
from zoo.training.stopping import FACTS as EARLY_STOPPING
from zoo.training.stopping import EarlyStopping
from zoo.weights.files import Stored, checked_facts, digest, entry
from zoo.weights.files import read as read_array

VERSION, READABLE = "3", ("2", "3")  # docs/checkpoint.md
TRAINED = "trained"  # the prefix of the weights that are trained, where the model has their averages
State = tuple[Mapping[str, Any], Mapping[str, Any]]  # further facts and arrays of a run
Contents = tuple[dict[str, np.ndarray], dict[str, Any]]  # arrays and header of a file
SETTINGS = ("version", "seed", "batch_size", "history", "augment", "optimizer")  # that a resumed run needs
FILE = "checkpoint.safetensors"  # in the folder of a run, see zoo.training.runs


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file."""

    path: Path
    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    def take(self, name: str, given: Any) -> Any:
        """The setting of the saved run. Raises WrongConfiguration if a different one is given."""
        return self.agreed(name, self.facts[name], given)

    def agreed(self, name: str, saved: Any, given: Any) -> Any:
        """A value of the saved run. Raises WrongConfiguration if a different one is given."""
        if given is not None and given != saved:
            raise WrongConfiguration(
                f"resume: {self.path} was trained with {name}={saved}, not {given}; leave it out, or give "
                "the same"
            )
        return saved

    def early_stopping(self) -> EarlyStopping | None:
        """The rule by which it was to stop."""
        saved = self.facts.get(EARLY_STOPPING)
        names = (field.name for field in fields(EarlyStopping))
        return saved and EarlyStopping(**{name: saved[name] for name in names})

    def optimizer(self) -> Any:
        """The optimizer it was trained by, without its memory."""
        for module in ("zoo.optimizers", "zoo.schedules"):
            import_module(module)  # Keras finds the classes that are loaded, else its own of that name
        return keras.optimizers.deserialize(deepcopy(self.facts["optimizer"]))  # which changes it

    def part(self, name: str) -> dict[str, np.ndarray]:
        """The arrays below a name: "model", "optimizer", "trained" or "best"."""
        return {key[len(name) + 1 :]: x for key, x in self.arrays.items() if key.startswith(f"{name}/")}

    def _weighed(self, memory: dict[str, np.ndarray], run: Run) -> dict[str, np.ndarray]:
        """The optimizer's memory; an older file has sums of gradients, in which all batches count alike."""
        if "weight_sum" in memory or "batches" not in memory:
            return memory
        every = self.facts["optimizer"]["config"].get("gradient_accumulation_steps") or 1
        batches = int(memory["batches"]) % every
        _, y = next(run.task.batches(run.batch_size, run.seed, 0))
        weight = np.array(batches * run.trainer.weight(y), np.int32)
        means = {k: x / max(1, batches) for k, x in memory.items() if k.startswith("gradients/")}
        return {**memory, **means, "weight_sum": weight}

    @property
    def steps(self) -> int:
        """The steps made."""
        return len(self.arrays["losses"])

    def end(self, total: int, rule: EarlyStopping | None) -> str:
        """Why a run of `total` steps makes no more of them, and what to do; empty if it makes some."""
        saved = self.facts.get(EARLY_STOPPING)
        if total <= self.steps:
            return (
                f"has {self.steps} steps already; steps={total} (or as many epochs) counts from the "
                "beginning, so ask for more"
            )
        if rule is None or saved is None or rule.monitor != saved["monitor"]:
            return ""
        if rule.ends_after(saved["waited"]):
            return (
                f"stopped early after {self.steps} steps, {saved['waited']} epochs without a better "
                f"{rule.monitor}; give early_stopping= more patience"
            )
        return ""

    def state_for(self, run: Run) -> dict[str, np.ndarray]:
        """The optimizer state for a new run. Raises WrongConfiguration for another model or optimizer."""
        kept = run.trainer.state_dict()
        memory = (
            self._weighed(self.part("optimizer"), run) if "weight_sum" in kept else self.part("optimizer")
        )
        shapes = {v.path: tuple(v.shape) for v in run.model.variables}
        _same(f"resume: {self.path}: variables", shapes, _shapes(self.part("model")))
        _same(f"resume: {self.path}: the optimizer state", _shapes(kept), _shapes(memory))
        return memory

    def restore(self, run: Run, state: Mapping[str, np.ndarray]) -> None:
        """Put a new run where the saved one was, with the state that `state_for` returned."""
        model = {**self.part("model"), **self.part(TRAINED)}
        for variable in run.model.variables:
            variable.assign(model[variable.path])
        run.trainer.load_state_dict(state)
        run.losses = self.arrays["losses"].tolist()
        run.history = [dict(metrics) for metrics in self.facts["history"]]


def _shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(x) for name, x in arrays.items()}


def _same(what: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raise WrongConfiguration unless these names have these shapes."""
    if missing := [name for name in ours if name not in theirs]:
        raise WrongConfiguration(f"{what}: {shortlist(missing, 3)} not in the file")
    if unknown := [name for name in theirs if name not in ours]:
        raise WrongConfiguration(f"{what}: no place for {shortlist(unknown, 3)}")
    for name, shape in ours.items():
        if tuple(theirs[name]) != tuple(shape):
            raise WrongConfiguration(f"{what}: {name} is {theirs[name]}, the model needs {shape}")


def write(
    path: str | Path,
    run: Run,
    optimizer: Any,
    facts: Mapping[str, Any] | None = None,
    state: State = ({}, {}),
) -> None:
    """Save a run, facts about it (`zoo.runs`) and further state, whole or not at all.

    An older file is replaced last.
    """
    write_contents(path, contents(run, optimizer, facts, state))


def contents(
    run: Run, optimizer: Any, facts: Mapping[str, Any] | None = None, state: State = ({}, {})
) -> Contents:
    """What `write` writes: a copy, so that another thread can write it while the run goes on."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    arrays = {f"model/{v.path}": _copy(ops.convert_to_numpy(v)) for v in run.model.variables}
    arrays |= {f"optimizer/{name}": _copy(x) for name, x in run.trainer.state_dict().items()}
    arrays |= {name: np.array(x) for name, x in state[1].items()}
    arrays["losses"] = np.array(run.losses, np.float64)
    header: dict[str, Any] = {
        "version": VERSION,
        "model": run.model.name,
        "task": run.task.name,
        "backend": run.backend,
        "engine": run.engine,
        "seed": run.seed,
        "batch_size": run.batch_size,
        "history": list(run.history),
        "freeze": run.freeze,
        "unfreeze": run.unfreeze,
        "class_weights": run.class_weights,
        "lora": run.lora,
        "augment": format_transforms(run.task.augment),
        "tokenizer": tokenizer(run.task),
        "steps_per_epoch": steps_per_epoch(run.task),
        **({} if facts is None else {"run": facts}),
        **state[0],
    }
    with backends.without_tensorflow():
        header["optimizer"] = keras.optimizers.serialize(optimizer)
    return arrays, header


def _copy(x: np.ndarray) -> np.ndarray:
    """An array with memory of its own: a copy of a view, in its order of axes, which the writer changes."""
    return x if x.flags.owndata else np.array(x)


def write_contents(path: str | Path, contents: Contents) -> None:
    """Write what `contents` returned."""
    from safetensors.numpy import save_file

    arrays, header = contents
    arrays = {name: np.asarray(x, order="C") for name, x in arrays.items()}
    text = json.dumps({**header, "digests": {name: digest(x) for name, x in arrays.items()}})
    with storage.replacing(path) as part:
        save_file(arrays, part, {"zoo": text, "checksum": digest(text)})


def tokenizer(task: Task) -> str:
    """A task's tokenizer in words; bytes if it has none."""
    return "bytes" if task.tokenizer is None else f"{task.tokenizer.name}, {task.tokenizer.vocabulary} tokens"


def steps_per_epoch(task: Task) -> int | None:
    """The batches of an epoch of a task's stream; None of other tasks, whose batch size decides."""
    return task.streams["train"].steps if "train" in task.streams else None


def writable(path: str | Path) -> None:
    """Raise WrongConfiguration, before any work, unless a checkpoint can be written there."""
    storage.check_file("checkpoint", path)


def keep(path: Path, steps: int, count: int) -> None:
    """Keep a checkpoint under a numbered name too, and of those names the newest `count`."""
    name = number(path, steps)
    name.unlink(missing_ok=True)
    try:
        os.link(os.path.realpath(path), name)
    except OSError:  # a file system without hard links, or a link to another one
        with storage.replacing(name) as part:
            shutil.copyfile(path, part)
    for file in numbered(path)[count:]:
        file.unlink(missing_ok=True)


def best(path: Path) -> Path:
    """The name of the best checkpoint beside the newest one."""
    return path.with_name(f"{path.stem}-best{path.suffix}")


def number(path: Path, steps: int) -> Path:
    """The name of the checkpoint after so many steps that is kept beside the newest one."""
    return path.with_name(f"{path.stem}-{steps:08d}{path.suffix}")


def numbered(path: Path) -> list[Path]:
    """The checkpoints that a run kept beside its newest one, "run-00000500.safetensors"; the newest first."""
    stem = re.sub(r"-\d{8}$", "", path.stem)
    kept = re.compile(rf"{re.escape(stem)}-\d{{8}}{re.escape(path.suffix)}")
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    found = [file for file in beside if kept.fullmatch(file.name) and file != path]
    return sorted(found, key=lambda file: (file.stat().st_mtime_ns, file.name), reverse=True)


def facts(path: Path) -> dict[str, Any]:
    """What a checkpoint's header says. Raises WrongConfiguration for a file that is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return checked_facts(file.metadata() or {})[0]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise WrongConfiguration(
            f"{path}: not a checkpoint of zoo.train ({error}); weights alone go with weights="
        ) from None


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint, by its file or its run's folder.

    Raises WrongConfiguration for any other file, and DataUnavailable for a damaged array; the message names
    the newest checkpoint of the run that is whole, if others were kept.
    """
    path = Path(path)
    path = path / FILE if storage.is_dir(path) else path
    if not storage.is_file(path):
        raise WrongConfiguration(f"resume={str(path)!r}: no such file")
    try:
        return _read(path)
    except (WrongConfiguration, DataUnavailable) as error:
        if (whole := next(filter(_is_whole, numbered(path)), None)) is None:
            raise
        said = str(error).rstrip(".")
        raise type(error)(f"{said}. An earlier checkpoint is whole: resume={str(whole)!r}") from None


def newest(path: Path) -> tuple[Checkpoint | None, str]:
    """The newest whole checkpoint of the run at `path`, None if there is none, and what to say about it.

    Raises what `read` raises where there are checkpoints, and all are damaged.
    """
    damaged: list[ZooError] = []
    for file in filter(storage.is_file, (path, *numbered(path))):
        try:
            saved = _read(file)
        except (WrongConfiguration, DataUnavailable) as error:
            damaged.append(error)
            continue
        note = f"resume=auto: {file} is continued after step {saved.steps}"
        return saved, "; ".join([note, *map(str, damaged)])
    if damaged:
        raise damaged[0]
    return None, f"resume=auto: no checkpoint in {path} yet; a new run starts"


def _is_whole(path: Path) -> bool:
    try:
        _read(path)
    except ZooError:
        return False
    return True


def _read(path: Path) -> Checkpoint:
    from safetensors import safe_open

    source = f"resume={str(path)!r}: "
    try:
        with safe_open(path, "numpy") as file:
            facts, digests = checked_facts(file.metadata() or {})
            facts = {
                "tokenizer": "bytes",
                "freeze": "",
                "unfreeze": "",
                "class_weights": "",
                "lora": "",
                "steps_per_epoch": None,
                **facts,
            }  # what older files do not have
            stored = {name: entry(file, name, digests.get(name)) for name in file.keys()}  # noqa: SIM118
            if digests and (other := sorted(digests.keys() ^ stored.keys())):
                raise ValueError(f"damaged: {shortlist(other, 3)} in its header or its digests alone")
            _check_parts(path, facts, stored)
            arrays = {name: read_array(name, x, source) for name, x in stored.items()}
    except ZooError:
        raise
    except Exception as error:  # of whichever kind: the file may be damaged anywhere
        raise WrongConfiguration(
            f"{source}not a checkpoint of zoo.train, or damaged ({error}); weights alone go by zoo.weights"
        ) from None
    return Checkpoint(path, facts, arrays)


def _check_parts(path: Path, facts: Mapping[str, Any], stored: Mapping[str, Stored]) -> None:
    """Raise WrongConfiguration for another version, for a part that is missing, or arrays of other types."""
    if facts.get("version", VERSION) not in READABLE:
        raise WrongConfiguration(
            f"resume={str(path)!r}: a checkpoint of format {facts.get('version')}; this zoo reads "
            f"{' and '.join(READABLE)}"
        )
    gone = [name for name in SETTINGS if name not in facts] + ["losses"] * ("losses" not in stored)
    if gone:
        raise WrongConfiguration(f"resume={str(path)!r}: not a whole checkpoint: no {', '.join(gone)}")
    for name, x in stored.items():
        if not (x.floating or x.integer):
            raise WrongConfiguration(
                f"resume={str(path)!r}: {name} is of type {x.dtype}; expected floats of 16, 32 or 64 bits, "
                "or integers"
            )
