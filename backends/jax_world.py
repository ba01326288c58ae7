"""Workers on JAX: a mesh over the devices of all processes, whose compiler shards the step by its batch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from zoo.backends.world import Launch, OwnRows, Part, World, even_rows, rows

from zoo.errors import BackendError, WorkerLost


class JaxWorld(World):
    """A mesh with the axis "batch". A step sees whole batches: its means and draws are of them, too."""

    def __init__(self, launch: Launch, timeout: float, device: str | None):
        super().__init__()
        self.rank, self.size = launch.rank, launch.size
        with self.contact():
            jax.distributed.initialize(
                f"{launch.address}:{launch.port + launch.elastic}",
                launch.size,
                launch.rank,
                local_device_ids=[launch.local_rank] if launch.local_size > 1 else None,
                initialization_timeout=int(max(1, timeout)),
                heartbeat_timeout_seconds=int(max(1, timeout)),
            )
        devices = _devices(device)
        mesh = Mesh(np.array(devices), ("batch",))
        self.sharded, self.replicated = (
            NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["batch"], [])
        )
        self.own = [each for each in devices if each.process_index == self.rank]
        self.devices = len(devices)
        jax.config.update("jax_default_device", self.own[0])
        self.add = jax.jit(lambda x: x.sum(0), out_shardings=self.replicated)
        with _stdout_on_stderr():  # gloo reports the connection, which is no result
            self.total(np.zeros(1))

    def batch(self, x: Any, y: np.ndarray, count: Callable[[np.ndarray], int]) -> tuple[Any, Any, Part]:
        del count
        even = len(y) % self.devices == 0
        sharding, length = (self.sharded, len(y) // self.size) if even else (self.replicated, len(y))
        start = self.rank * length if even else 0

        def put(array: Any) -> jax.Array:
            array = array if isinstance(array, OwnRows) else np.asarray(array)
            own = rows(array, start, start + length)
            return jax.make_array_from_process_local_data(sharding, own, array.shape)

        inputs = {name: put(each) for name, each in x.items()} if isinstance(x, dict) else put(x)
        return inputs, put(y), Part()

    def own_rows(self, length: int) -> slice:
        even = length % self.devices == 0
        return even_rows(length, self.rank, self.size) if even else slice(0, length)

    def put(self, arrays: Any) -> Any:
        """Arrays that all workers have, as replicated ones of the mesh."""

        def one(x: jax.Array) -> jax.Array:
            copies = [jax.device_put(x, device, may_alias=False) for device in self.own]
            return jax.make_array_from_single_device_arrays(x.shape, self.replicated, copies)

        return jax.tree.map(one, arrays)

    def take(self, arrays: Any) -> Any:
        """Replicated arrays of the mesh as arrays of this process's first device."""
        return jax.tree.map(lambda x: x.addressable_data(0), arrays)

    def flagged(self) -> jax.Array:
        """What the devices of the workers send with a step."""
        own = np.full(len(self.own), float(self.flag), np.float32)
        return jax.make_array_from_process_local_data(self.sharded, own, (self.devices,))

    def total(self, array: np.ndarray) -> np.ndarray:
        array = np.asarray(array, np.float64)
        with jax.enable_x64(True):
            own = np.zeros((len(self.own), *array.shape))
            own[0] = array
            shape = self.devices, *array.shape
            whole = jax.make_array_from_process_local_data(self.sharded, own, shape)
            return np.asarray(self.add(whole).addressable_data(0))

    @contextmanager
    def contact(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            text = str(error).lower()
            if any(word in text for word in ("gloo", "nccl", "unavailable", "deadline", "coordination")):
                raise WorkerLost.of(error) from None
            raise

    def close(self) -> None:
        jax.distributed.shutdown()


def _devices(name: str | None) -> list[Any]:
    """Those of all workers, of the kind that is named. Raises BackendError where there are none."""
    try:
        return jax.devices(name and name.partition(":")[0])
    except RuntimeError as error:
        raise BackendError(f"no device {name!r}: {error}") from None


@contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Within, what libraries write on standard output goes to standard error."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
