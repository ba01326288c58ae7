"""Workers on TensorFlow: its collective operations over gRPC, by NCCL on CUDA devices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context
from zoo.backends.tensorflow import LOST
from zoo.backends.world import Launch, World, addresses, get_world

from zoo.errors import WorkerLost

LEADER = "/job:worker/replica:0/task:0"


class TensorFlowWorld(World):
    """A cluster of equal tasks, each with one device; the sums of a step are one all-reduce."""

    def __init__(self, launch: Launch, timeout: float):
        super().__init__()
        self.rank, self.size = launch.rank, launch.size
        self.keys = itertools.count(1)  # of collective operations: the same on all workers, traced alike
        self.on_gpu = bool(tf.config.list_physical_devices("GPU"))
        self.eager = tf.function(self.traced)  # an operation for each shape, and not for each call
        cluster = tf.train.ClusterSpec({"worker": addresses(launch)})
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            cluster, task_type="worker", task_id=self.rank, rpc_layer="grpc"
        )
        # The time-out is that of the heartbeats: an operation's own starts a thread for each call.
        limit, protobuf = int(1000 * timeout), cast(Any, coordination_config_pb2)
        cast(Any, context.context()).configure_coordination_service(
            "standalone",
            LEADER,
            heartbeat_timeout_in_ms=limit,
            cluster_register_timeout_in_ms=limit,
            coordinated_jobs=[protobuf.CoordinatedJob(name="worker", num_tasks=self.size)],
        )
        with self.contact():
            tf.distribute.MultiWorkerMirroredStrategy(resolver)  # starts the server of this worker
            self.total(np.zeros(1))

    def traced(self, x: tf.Tensor, *, on_gpu: bool, by: str = "Add") -> tf.Tensor:
        """The sum or "Max" over the workers, as a new operation of the function that is traced."""
        return tf.raw_ops.CollectiveReduceV2(
            input=x,
            group_size=self.size,
            group_key=1 + on_gpu,  # the members of a group have the same kind of device
            instance_key=next(self.keys),
            ordering_token=[],
            merge_op=by,
            final_op="Id",
            communication_hint="nccl" if on_gpu else "ring",
        )

    def sum(self, x: tf.Tensor) -> tf.Tensor:
        """The sum over the workers, on the device that computes."""
        return (self.eager if tf.executing_eagerly() else self.traced)(x, on_gpu=self.on_gpu)

    def reduce(self, x: tf.Tensor, by: str) -> tf.Tensor:
        return self.traced(x, on_gpu=self.on_gpu, by={"sum": "Add", "max": "Max"}[by])

    def total(self, array: np.ndarray) -> np.ndarray:
        with tf.device("CPU:0"):
            return self.eager(tf.constant(array, tf.float64), on_gpu=False).numpy()

    def sums(
        self, loss: tf.Tensor, gradients: Sequence[tf.Tensor], flag: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        """The loss, the gradients and the flag, summed over the workers."""
        found = [tf.stack([loss, tf.cast(flag, loss.dtype)]), *gradients]
        for dtype in {part.dtype: None for part in found}:  # in the same order on all workers
            own = [i for i, part in enumerate(found) if part.dtype == dtype]
            flat = self.sum(tf.concat([tf.reshape(found[i], [-1]) for i in own], 0))
            for i, piece in zip(own, tf.split(flat, [tf.size(found[i]) for i in own]), strict=True):
                found[i] = tf.reshape(piece, found[i].shape)
        return found[0][0], found[1:], found[0][1]

    @contextmanager
    def contact(self) -> Iterator[None]:
        try:
            yield
        except LOST as error:
            _, _, reason = str(error).rpartition(
                "aborted by: "
            )  # which names the task, after a page of nodes
            raise WorkerLost.of(ValueError(reason)) from None


@tf.custom_gradient
def _sum(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """The sum over the workers. A loss is summed over them as well, and so is the gradient."""
    add = cast(Any, get_world()).sum
    return add(x), add


def batch_norm(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    *,
    momentum: float,
    epsilon: float,
    of: int,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`zoo.backends.tensorflow.batch_norm` in training, of a batch in so many equal parts."""
    axes, count = list(range(x.shape.rank - 1)), tf.cast(of * tf.size(x) / tf.size(mean), x.dtype)
    total = cast(Callable[[tf.Tensor], tf.Tensor], _sum)
    batch_mean = total(tf.reduce_sum(x, axes)) / count
    centred = x - batch_mean
    batch_variance = total(tf.reduce_sum(tf.square(centred), axes)) / count
    y = centred * (tf.math.rsqrt(batch_variance + epsilon) * gamma) + beta
    mean = (1 - momentum) * mean + momentum * batch_mean
    unbiased = batch_variance * (count / tf.maximum(count - 1, 1))
    return y, mean, (1 - momentum) * variance + momentum * unbiased
