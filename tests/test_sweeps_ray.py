"""Sweeps on Ray: the results of the pool, to the bit, also when a node is lost.

Minutes of several processes: ZOO_SWEEPS=1 pytest -m parity tests/test_sweeps_ray.py
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.sweeps import cluster

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif("ZOO_SWEEPS" not in os.environ, reason="minutes: set ZOO_SWEEPS=1"),
    # Of Ray's: it leaves the pipes of its processes to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SWEEP = {
    "models": "mlp",
    "backends": ["torch", "tensorflow", "jax"],
    "seeds": 2,
    "settings": {"steps": 150, "lr": [0.003, 0.03], "task": "digits"},
}


@pytest.fixture(scope="module")
def ray() -> Any:
    for name, value in cluster.VARIABLES.items():
        os.environ.setdefault(name, value)
    return pytest.importorskip("ray")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> zoo.sweeps.Sweep:
    """The results of processes of this machine."""
    result = zoo.sweep(**SWEEP, out=tmp_path_factory.mktemp("local"))
    assert [run["error"] for run in result.runs] == [None] * 12
    return result


def bits(result: zoo.sweeps.Sweep) -> dict[str, str]:
    """The hash of each run's losses and weights."""
    return {run["key"]: run["hash"] for run in result.runs}


@pytest.mark.usefixtures("ray")
def test_the_results_of_ray_are_those_of_the_pool(local: zoo.sweeps.Sweep, tmp_path: Path) -> None:
    result = zoo.sweep(**SWEEP, out=tmp_path, address="local", jobs=2)
    assert bits(result) == bits(local)
    assert len(set(bits(result).values())) == 12
    assert [cell["mean"] for cell in result.cells] == [cell["mean"] for cell in local.cells]


def test_a_node_that_is_lost_with_a_task_costs_no_result(
    ray: Any, local: zoo.sweeps.Sweep, tmp_path: Path
) -> None:
    """Two nodes of one CPU; the second is killed while it runs a task."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = nodes.add_node(num_cpus=1)
    lost: list[str] = []

    def show(line: str) -> None:
        """After the first result: wait until the second node has a task, then kill it."""
        if not line.startswith("[1/"):
            return
        identity = second.node_id
        end = time.monotonic() + 60
        while ray._private.state.available_resources_per_node().get(identity, {}).get("CPU", 0.0):
            assert time.monotonic() < end
            time.sleep(0.05)
        nodes.remove_node(second, allow_graceful=False)
        lost.append(identity)

    try:
        result = zoo.sweep(**SWEEP, out=tmp_path, address=nodes.address, show=show)
        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert lost
    assert lost[0] not in alive
    assert [run["error"] for run in result.runs] == [None] * 12
    assert bits(result) == bits(local)


@pytest.mark.usefixtures("ray")
def test_no_cluster_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(zoo.BackendError, match=r"no Ray cluster at .*--address local"):
        zoo.sweep(models="mlp", out=tmp_path / "out", address="auto")
