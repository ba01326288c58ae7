"""Batches of the user's own: tf.data.Dataset, torch's DataLoader, Keras's PyDataset, iterables, functions.

Their batches (x, y) are used as they are, on any framework: arrays and tensors become NumPy arrays.
The classes are known by their modules, so that no framework is imported. The order is theirs: a run's seed
does not shuffle them.

A pass is what one iterator gives. Without `steps_per_epoch` an epoch is a pass, whose length must be known;
with it an epoch is that many batches, and if a pass ends within an epoch another begins. A function with a
parameter is called with the number of the epoch, once for each.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, count, islice
from typing import Any

import numpy as np

from zoo.errors import WrongConfiguration

Pair = tuple[Any, Any]
TENSORFLOW, TORCH, KERAS = "tensorflow.python.data.", "torch.utils.data.", "keras.src.trainers.data_adapters."


def is_stream(data: Any) -> bool:
    """Whether this is data that come in batches, and not arrays, a name or a task."""
    if isinstance(data, list):
        return bool(data) and all(isinstance(each, tuple) and len(each) == 2 for each in data)
    if isinstance(data, str | bytes | tuple | Mapping) or hasattr(data, "shape"):
        return False
    return _is_of(data, TENSORFLOW, TORCH, KERAS) or hasattr(data, "__iter__") or callable(data)


def _is_of(data: Any, *modules: str) -> bool:
    return any(cls.__module__.startswith(modules) for cls in type(data).__mro__)


class Stream:
    """Batches (x, y) as NumPy arrays; `option` is the argument of `zoo.train` by which errors name it.

    Raises WrongConfiguration for data that are not batches, for an unknown length without `steps_per_epoch`,
    and later where a pass ends early or cannot be repeated.
    """

    def __init__(self, option: str, data: Any, steps_per_epoch: int | None = None):
        self.option, self.data, self.name = option, data, type(data).__name__
        self.function = callable(data) and not hasattr(data, "__iter__")
        self.by_index = isinstance(data, list) or _is_of(data, KERAS)
        self.once = hasattr(data, "__next__")  # a generator, which cannot be restarted
        self.by_epoch = self.function and _has_parameter(data)
        self.endless, self.length = _length(data)  # the batches of a pass; None if not known
        if self.by_epoch:
            self.length = steps_per_epoch
        self.per_epoch = steps_per_epoch or self.length
        self.ended = 0  # passes whose end a PyDataset knows
        self.opened: Iterator[Any] | None = None  # the first pass, until it is used
        self.begun = False
        # What is made of a batch: the inputs are named, the arrays converted, and checked against the model.
        self.uses: dict[str, Callable[[Pair], Pair]] = {}
        begin = self._pass(0)
        self.head = next(begin)
        self.opened = chain([self.head], begin)  # read once: a generator gives it once
        self.position, self.rest = 0, self._passes(0)

    @property
    def first(self) -> Pair:
        """The first batch."""
        return self.pair(self.head, 0)

    @property
    def steps(self) -> int:
        """The batches of an epoch. Raises WrongConfiguration if they are not known."""
        if self.per_epoch is None:
            kind = "infinite" if self.endless else "of unknown length"
            raise WrongConfiguration(
                f"{self.option}: {self.name} is {kind}; give steps_per_epoch=, the batches of an epoch"
            )
        return self.per_epoch

    def batches(self, epoch: int, first: int = 0) -> Iterator[Pair]:
        """The batches of an epoch from `first` on."""
        if (start := epoch * self.steps + first) != self.position:
            self._seek(start)
        for _ in range(self.steps - first):
            number, batch = self.position, next(self.rest)
            self.position += 1
            yield self.pair(batch, number)

    def whole(self) -> Iterator[Pair]:
        """The batches of a pass, to evaluate on."""
        if self.endless:
            raise WrongConfiguration(
                f"{self.option}: {self.name} is infinite; give one that ends, to evaluate on"
            )
        return (self.pair(batch, number) for number, batch in enumerate(self._pass(0)))

    def pair(self, batch: Any, number: int) -> Pair:
        """A batch as NumPy arrays. Raises WrongConfiguration, with the number of the batch, for any other."""
        where = f"{self.option}: batch {number} of {self.name}"
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            weights = isinstance(batch, tuple | list) and len(batch) == 3
            why = "sample weights are not supported" if weights else "a batch needs its labels"
            raise WrongConfiguration(f"{where} is {_described(batch)}; expected a pair (x, y): {why}")
        x, y = batch
        several = isinstance(x, tuple | list) and all(len(getattr(part, "shape", ())) for part in x)
        if isinstance(x, Mapping):
            x = {name: array(part, where) for name, part in x.items()}
        else:
            x = [array(part, where) for part in x] if several else array(x, where)
        parts = [array(y, where), *(x.values() if isinstance(x, dict) else x if several else [x])]
        if not all(part.ndim for part in parts):
            raise WrongConfiguration(
                f"{where} is one example, not a batch; put examples together by ds.batch(32), or "
                "DataLoader(ds, 32)"
            )
        pair = x, parts[0]
        try:
            for use in (self.uses[name] for name in ("name", "convert", "check") if name in self.uses):
                pair = use(pair)
        except WrongConfiguration as error:
            raise WrongConfiguration(f"{where}: {error}") from None
        return pair

    def _seek(self, start: int) -> None:
        """Continue from another batch: directly where batches have an index, else by reading those before."""
        if self.by_index or self.by_epoch:
            self.rest, self.position = self._passes(start), start
            return
        if start < self.position:
            self.rest, self.position = self._passes(0), 0
        for _ in islice(self.rest, start - self.position):
            self.position += 1

    def _passes(self, start: int) -> Iterator[Any]:
        """The batches from that one on, pass after pass."""
        begin, index = divmod(start, self.length) if self.length else (0, start)
        for number in count(begin):
            yield from self._pass(number, index)
            index = 0

    def _pass(self, number: int, index: int = 0) -> Iterator[Any]:
        """The batches of a pass from `index` on. Raises WrongConfiguration where they are fewer or more."""
        if self.by_index:
            yield from self._indexed(number, index)
            return
        iterator = self._iterator(number)
        given = 0
        for given, batch in enumerate(islice(iterator, self.length) if self.by_epoch else iterator, 1):
            if given > (self.length or given):
                break
            if given > index:
                yield batch
        if given != (self.length or max(1, given)):
            raise WrongConfiguration(
                f"{self.option}: {self.name} gave {given} batches; expected {self.length or 'at least 1'}"
            )

    def _indexed(self, number: int, index: int) -> Iterator[Any]:
        for _ in range(number - self.ended):
            getattr(self.data, "on_epoch_end", lambda: None)()
        self.ended = max(number, self.ended)
        if self.length == 0:
            raise WrongConfiguration(f"{self.option}: {self.name} gave 0 batches; expected at least 1")
        for i in count(index) if self.length is None else range(index, self.length):
            yield self.data[i]

    def _iterator(self, number: int) -> Iterator[Any]:
        """A new iterator, but for the first pass the one that has begun."""
        if self.opened is not None and not number:
            opened, self.opened = self.opened, None
            return opened
        if self.function:
            return iter(self.data(number) if self.by_epoch else self.data())
        if not hasattr(self.data, "__iter__"):
            raise WrongConfiguration(
                f"{self.option}: {self.name} gives no batches; put it into a torch.utils.data.DataLoader"
            )
        if self.once and self.begun:
            raise WrongConfiguration(
                f"{self.option}: {self.name} gives its batches once, and they are needed again; give a "
                "function that returns a new one"
            )
        self.begun = True
        return iter(self.data)


def _length(data: Any) -> tuple[bool, int | None]:
    """Whether a pass never ends, and its batches if they are known."""
    if _is_of(data, TENSORFLOW):
        found = int(data.cardinality())
        return found == -1, None if found < 0 else found
    if _is_of(data, KERAS):
        return data.num_batches is None, data.num_batches
    try:
        return False, len(data)
    except (TypeError, NotImplementedError):
        return False, None


def _has_parameter(function: Any) -> bool:
    """Whether a function takes the number of the epoch."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters
    )


def array(part: Any, where: str) -> np.ndarray:
    """A tensor of any framework, or numbers, as a NumPy array. Raises WrongConfiguration for others."""
    try:
        if hasattr(part, "detach"):  # torch's
            part = part.detach().cpu()
            part = part.float() if str(part.dtype) == "torch.bfloat16" else part
        found = np.asarray(part)
        if found.dtype.name == "bfloat16":
            found = found.astype(np.float32)
    except Exception as error:
        raise WrongConfiguration(f"{where} has {_described(part)}, which is not an array: {error}") from error
    if found.dtype.kind not in "biuf":
        raise WrongConfiguration(f"{where} has an array of {found.dtype}; expected numbers")
    return found


def _described(part: Any) -> str:
    size = f" of {len(part)}" if isinstance(part, tuple | list | Mapping) else ""
    return f"a {type(part).__name__}{size}"
