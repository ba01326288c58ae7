"""Several processes that train one model: the world of workers, and a worker's part of a batch.

Every worker computes the order of the examples, and of a batch of n rows [i n/N, (i+1) n/N) are worker i's of
N. A loss is the mean over the examples or labels of a part; times the part's weight, the counted share, the
losses and gradients of all workers add up to those of the whole batch. A batch that N does not divide, or a
part of which has no counted label, is computed whole by every worker, each with the weight 1/N.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.errors import BackendError

if TYPE_CHECKING:  # the command's help loads this module
    import numpy as np

Tensor = Any
DELAY = 2  # steps after which the flags of a step are read: it has been computed by then
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Part:
    """Part `index` of the `of` equal ones of a batch, and its weight in the mean over the batch."""

    index: int = 0
    of: int = 1
    weight: float = 1.0


WHOLE = Part()
_part: ContextVar[Part] = ContextVar("part", default=WHOLE)


@contextmanager
def sharding(part: Part) -> Iterator[None]:
    """Within, this part is computed: random draws are its own, batch statistics those of all parts."""
    token = _part.set(part)
    try:
        yield
    finally:
        _part.reset(token)


def part() -> Part:
    """The part that is being computed."""
    return _part.get()


class World:
    """The workers of a run; this process is number `rank` of `size`, alone until it joins others."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self.flag = False  # what this worker sends with its next step
        self.flags: deque[Tensor] = deque()  # of the last steps: the number of workers that sent one

    def batch(self, x: Any, y: np.ndarray, count: Callable[[np.ndarray], int]) -> tuple[Any, Tensor, Part]:
        """This worker's part of a batch, on its device; `count(y)` is how many labels the loss counts."""
        from zoo.backends import tensors

        if self.size == 1:
            return tensors(x), tensors(y), WHOLE
        own, part = split(y, self.rank, self.size, count)
        return tensors(rows(x, own.start, own.stop)), tensors(y[own]), part

    def own_rows(self, length: int) -> slice:
        """The rows of a batch of so many that this worker needs, where every row counts as many labels."""
        return even_rows(length, self.rank, self.size)

    def total(self, array: np.ndarray) -> np.ndarray:
        """The sum over the workers, in float64, of arrays of the same shape; waits for all of them."""
        return array

    def reduce(self, x: Tensor, by: str) -> Tensor:
        """The "sum" or "max" over the workers, in the program of a step."""
        del by
        return x

    def put(self, arrays: Any) -> Any:
        """Arrays that all workers have, as a step takes them."""
        return arrays

    def take(self, arrays: Any) -> Any:
        """Arrays of `put` as this process's own."""
        return arrays

    def placed(self, arrays: Any) -> Any:
        """In the program of a step: its results, where `put` puts them."""
        return arrays

    def flagged(self) -> Tensor:
        """What this worker sends with a step, a vector."""
        import numpy as np
        from zoo.backends import tensors

        return tensors(np.array([self.flag], np.float32))

    def stops(self, received: Sequence[int]) -> bool:
        """Whether a worker had received a signal, as all workers know it after the same step."""
        if self.size == 1:
            return bool(received)
        self.flag, found = bool(received), False
        while len(self.flags) > DELAY:
            found |= float(self.flags.popleft()) > 0
        return found

    def contact(self) -> AbstractContextManager[None]:
        """Within, WorkerLost is raised where another worker has ended, or did not answer in time."""
        return nullcontext()

    def close(self) -> None:
        """Leave the world."""


_world = World()


def get_world() -> World:
    """The world of this process."""
    return _world


@dataclass(frozen=True)
class Launch:
    """What the program that started this worker says of it, and where worker 0 listens.

    A launcher that is `elastic`, torchrun, listens there itself, and has restarted the workers so many times.
    """

    rank: int
    size: int
    local_rank: int  # on its machine
    local_size: int
    address: str
    port: int
    elastic: bool = False
    restarts: int = 0
    addresses: tuple[str, ...] = ()  # of all workers, where they are known


# Variables by launcher: rank, size, local rank, local size. SLURM's own are those of a step, of srun.
VARIABLES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
)


def launched() -> Launch | None:
    """How this process was started: by torchrun, srun or `zoo.processes.launcher`, or as TF_CONFIG says.

    None if alone. Raises BackendError for variables that are not numbers, or contradict each other.
    """
    config = _tensorflow_config()
    for names in VARIABLES:
        rank, size, local_rank, local_size = map(os.environ.get, names)
        if rank is None or size is None:
            continue
        given = rank, size, local_rank or rank, re.split(r"\D", local_size or size)[0]
        try:
            first, second, third, fourth = map(int, given)
        except ValueError:
            raise BackendError(f"{', '.join(names)}: {', '.join(given)}; expected integers") from None
        if not 0 <= first < second:
            raise BackendError(
                f"{names[0]}={first}, {names[1]}={second}; expected a rank from 0 to the size - 1"
            )
        if config is not None and (config.rank, config.size) != (first, second):
            raise BackendError(
                f"TF_CONFIG is that of worker {config.rank} of {config.size}, {names[0]} and {names[1]} are "
                f"{first} and {second}; unset TF_CONFIG, or make them agree"
            )
        elastic = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
        known = () if config is None else config.addresses
        return Launch(first, second, third, fourth, *_address(), elastic, restarts, known)
    return config


def describe() -> dict[str, Any] | None:
    """For `zoo doctor`: the variables that name this worker, and the world it would join, or what is wrong.

    None if this process was started alone.
    """
    try:
        found = launched()
    except BackendError as error:
        return {"error": str(error)}
    given = [[name for name in names[:2] if name in os.environ] for names in VARIABLES]
    if found is None:
        first, second = VARIABLES[0][:2]
        if not given[0]:
            return None
        half = f"{given[0][0]} is set, but not both of {first} and {second}"
        return {"error": f"{half}; unset it, or set both"}
    return {
        "variables": next((names for names in given if len(names) == 2), ["TF_CONFIG"]),
        "rank": found.rank,
        "size": found.size,
        "local_rank": found.local_rank,
        "local_size": found.local_size,
        "address": f"{found.address}:{found.port}",
        "addresses": list(found.addresses),
    }


def _tensorflow_config() -> Launch | None:
    """What TF_CONFIG says: the addresses of a cluster's workers, and which of them this one is."""
    if not (text := os.environ.get("TF_CONFIG")):
        return None
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster", {}), config.get("task", {})
        chiefs, others = (list(cluster.get(kind, [])) for kind in ("chief", "worker"))
        found = [*chiefs, *others]
        if not found:
            return None
        rank = {"chief": 0, "worker": len(chiefs)}[task["type"]] + int(task["index"])
        hosts = [address.rpartition(":")[0] for address in found]
        host, port = hosts[0], int(found[0].rpartition(":")[2])
        local_rank, local_size = hosts[:rank].count(hosts[rank]), hosts.count(hosts[rank])
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise BackendError(
            f"TF_CONFIG={text}: {type(error).__name__}: {error}; expected the workers' addresses and which "
            'this is: {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        ) from None
    return Launch(rank, len(found), local_rank, local_size, host, port, addresses=tuple(found))


def addresses(launch: Launch) -> list[str]:
    """The address at which each worker listens, for a framework that needs them all.

    Raises BackendError for workers on several machines without TF_CONFIG.
    """
    if launch.addresses:
        return list(launch.addresses)
    if launch.local_size != launch.size:
        raise BackendError(
            f"workers={launch.size} on several machines: TensorFlow needs the address of each; set TF_CONFIG "
            "(docs/scale.md)"
        )
    # That of worker 0 may be torchrun's own.
    return [f"{launch.address}:{launch.port + 1 + rank}" for rank in range(launch.size)]


def _address() -> tuple[str, int]:
    """Where worker 0 listens: MASTER_ADDR and MASTER_PORT, else a job's first host and a port of its own."""
    first = re.match(r"([^\[,]+)(?:\[(\d+))?", os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1"))
    host = "".join(filter(None, first.groups())) if first else "127.0.0.1"
    port = 20_000 + int(os.environ.get("SLURM_JOB_ID", 0)) % 20_000
    return os.environ.get("MASTER_ADDR", host), int(os.environ.get("MASTER_PORT", port))


def join(
    make: Callable[[Launch, float, str | None], World], workers: int, timeout: float, device: str | None
) -> World:
    """Join so many workers. Raises BackendError unless this process was started as one of so many."""
    global _world
    if workers == _world.size:
        return _world
    if _world.size > 1:
        raise BackendError(f"workers={workers}: this process is one of {_world.size} already")
    _world = make(check_launch(workers), timeout, device)
    return _world


def check_launch(workers: int) -> Launch:
    """How this process was started. Raises BackendError unless it is one of so many workers."""
    found = launched()
    if found is None:
        raise BackendError(
            f"workers={workers}, but this process was started alone; start the program by torchrun, srun or "
            f"python -m zoo.processes.launcher {workers} PROGRAM.py, or use zoo train --workers {workers}"
        )
    if found.size != workers:
        raise BackendError(
            f"workers={workers}, but {found.size} were started; give workers={found.size}, or start {workers}"
        )
    return found


class OwnRows:
    """A worker's rows, from `start` on, of an array of `length`; it has no others.

    Every row of the batch counts as many labels as any other.
    """

    def __init__(self, array: np.ndarray, start: int, length: int):
        self.array, self.start, self.length = array, start, length
        self.dtype, self.ndim, self.shape = array.dtype, array.ndim, (length, *array.shape[1:])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, chosen: slice) -> np.ndarray:
        start, stop = chosen.start - self.start, chosen.stop - self.start
        if not 0 <= start <= stop <= len(self.array):
            raise IndexError(f"rows {chosen.start} to {chosen.stop} are another worker's")
        return self.array[start:stop]


def counted(y: Any, count: Callable[[np.ndarray], int]) -> int:
    """How many labels of a batch the loss counts, where a worker may have its own rows alone."""
    return count(y.array) * len(y) // len(y.array) if isinstance(y, OwnRows) else count(y)


def even_rows(length: int, rank: int, size: int) -> slice:
    """A worker's rows of a batch of so many; all of them, where they do not divide."""
    return slice(0, length) if length % size else slice(rank * length // size, (rank + 1) * length // size)


def rows(x: Any, start: int, stop: int) -> Any:
    """Rows of an array, or of each in a dict."""
    return {name: a[start:stop] for name, a in x.items()} if isinstance(x, Mapping) else x[start:stop]


def split(
    y: np.ndarray | OwnRows, rank: int, size: int, count: Callable[[np.ndarray], int]
) -> tuple[slice, Part]:
    """The rows of a batch with these labels that a worker computes, and its part."""
    if isinstance(y, OwnRows):
        return even_rows(len(y), rank, size), Part(rank, size, 1 / size)
    length, uneven = divmod(len(y), size)
    counts = [0] if uneven else [count(y[i * length : (i + 1) * length]) for i in range(size)]
    if min(counts) == 0:
        return slice(0, len(y)), Part(weight=1 / size)
    return slice(rank * length, (rank + 1) * length), Part(rank, size, counts[rank] / sum(counts))
