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

SMALLEST = 1024  # numbers of an array that is sharded: of a bias, sending costs more than holding


class JaxWorld(World):
    """A mesh with the axis "batch". A step sees whole batches: its means and draws are of them, too."""

    shards_weights = False

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
        self.mesh = Mesh(np.array(devices), ("batch",))
        self.sharded, self.replicated = self.along(0), self.along(None)
        self.own = [each for each in devices if each.process_index == self.rank]
        self.devices = len(devices)
        self.home = self.own[0]
        jax.config.update("jax_default_device", self.home)
        self.add = jax.jit(lambda x: x.sum(0), out_shardings=self.replicated)
        self.gather = jax.jit(lambda x: x, out_shardings=self.replicated)
        with _stdout_on_stderr():  # gloo reports the connection, which is no result
            self.total(np.zeros(1))

    def shard_weights(self) -> None:
        """From here on each worker has a part of every large weight, and the model in the host's memory."""
        self.shards_weights = True
        self.home = jax.local_devices(backend="cpu")[0]
        jax.config.update("jax_default_device", self.home)

    def along(self, axis: int | None) -> NamedSharding:
        """Parts of an axis, one a device; of None, all of the array on each."""
        return NamedSharding(
            self.mesh, PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, "batch")
        )

    def split(self, arrays: Any) -> Any:
        """The sharding of weights, or of what is kept for each: of their longest axis that divides."""

        def one(x: jax.Array) -> NamedSharding:
            axes = [axis for axis, length in enumerate(x.shape) if length % self.devices == 0]
            if not self.shards_weights or x.size < SMALLEST or not axes:
                return self.replicated
            return self.along(max(axes, key=lambda axis: x.shape[axis]))

        return jax.tree.map(one, arrays)

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

    def put(self, arrays: Any, shardings: Any = None) -> Any:
        """Arrays that all workers have, as arrays of the mesh, by default those of `split`."""

        def one(x: jax.Array, sharding: NamedSharding) -> jax.Array:
            parts = sharding.addressable_devices_indices_map(x.shape).items()
            own = [jax.device_put(x[index], device, may_alias=False) for device, index in parts]
            return jax.make_array_from_single_device_arrays(x.shape, sharding, own)

        return jax.tree.map(one, arrays, self.split(arrays) if shardings is None else shardings)

    def take(self, arrays: Any) -> Any:
        """Arrays of the mesh as whole ones of this process; all workers take sharded ones together."""

        def one(x: jax.Array) -> jax.Array:
            if x.sharding.is_fully_replicated:
                return x.addressable_data(0)
            return jax.device_put(self.gather(x).addressable_data(0), self.home)

        return jax.tree.map(one, arrays)

    def placed(self, arrays: Any) -> Any:
        return jax.lax.with_sharding_constraint(arrays, self.split(arrays))

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
