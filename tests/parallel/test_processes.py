"""Processes that train as one, find each other, and end when one of them does."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from jaxnn.cli import main
from jaxnn.distributed import processes
from jaxnn.distributed.processes import (
    HeartbeatMonitor,
    cluster,
    distributed_run,
    filled_in,
)
from jaxnn.environment import Processes
from jaxnn.errors import JaxnnError
from tests.parallel.on_devices import train

FLAGS = {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    "JAX_ENABLE_X64": "true",
    "PYTHONUNBUFFERED": "1",
}


def start(then, devices=4, folder=""):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    words = [str(port), then, str(devices), str(folder)]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.parallel.rank", str(rank), *words],
            env=environment | FLAGS, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]  # fmt: skip


def printed(text):
    return json.loads(next(line for line in text.splitlines() if line[:1] == "{"))


def ended(*processes):
    """(status, printed, words) of each in turn; one that was stopped is woken."""
    found = []
    try:
        for process, seconds in zip(processes, (280, 60), strict=True):
            process.send_signal(signal.SIGCONT)
            texts = process.communicate(timeout=seconds)
            found.append((process.returncode, *texts))
    finally:
        for process in processes:
            process.kill()
    return found


def is_that_of_one(losses, **options):
    alone = [row["loss"] for row in train(**options).epochs]
    np.testing.assert_allclose(losses, alone, atol=1e-5)


LOST = "jaxnn: error: process 0 of 2 ends: it lost another process"


def test_two_processes_train_as_one_and_one_outlives_the_death_of_the_other():
    (died, other, _), (status, out, words) = ended(*reversed(start("die")))
    assert died == -signal.SIGKILL
    assert status not in (0, -signal.SIGKILL)
    assert LOST in words
    mine, theirs = printed(out), printed(other)
    assert mine == theirs  # the same history in both, to the last bit
    assert mine["devices"] == [4, 2]
    assert mine["skipped"] == mine["in batch"]
    assert sum(mine["skipped"]) > 0
    is_that_of_one(mine["losses"])


def test_two_processes_that_were_killed_resume_and_end_as_one(tmp_path):
    (status, _, words), (died, _, _) = ended(*start("resume", 2, tmp_path))
    assert died == -signal.SIGTERM
    assert status not in (0, -signal.SIGKILL)
    assert LOST in words
    assert "Traceback" not in words
    ends = ended(*start("resume", 2, tmp_path))
    assert [status for status, _, _ in ends] == [0, 0], ends
    mine, theirs = (printed(out) for _, out, _ in ends)
    assert mine == theirs
    assert not mine["anew"]
    assert len(mine["losses"]) == 6
    is_that_of_one(mine["losses"], epochs=6)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [4, 2])
def test_processes_end_together(devices):
    (first, out, _), (second, other, _) = ended(*start("end", devices))
    assert first == second == 0
    assert "end (2, 3) 80" in out
    assert printed(out) == printed(other)
    assert printed(out)["devices"] == [devices, devices // 2]
    is_that_of_one(printed(out)["losses"])


@pytest.mark.slow
def test_a_process_ends_when_the_other_hangs_which_ends_when_it_wakes():
    (first, _, words), (second, _, late) = ended(*start("stop"))
    assert first != 0
    assert "no sign of life from process 1 for 15 s" in words
    assert second == 1, late  # no abort of the runtime
    assert "process 1 of 2 ends: it was stopped for" in late


class Store:
    """The store of two processes, and their clock; the other's beat is set by hand."""

    def __init__(self, monkeypatch):
        self.now, self.other = 0.0, "0 0"
        state = SimpleNamespace(client=self, process_id=0, num_processes=2)
        monkeypatch.setattr(processes, "joined", lambda: state)
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(processes, "time", clock)
        monkeypatch.setattr(processes, "abort", self.abort)

    def key_value_set(self, *_, **__):
        pass

    def key_value_dir_get(self, _):
        return [("jaxnn/heartbeat/1", self.other)]

    def abort(self, why):
        raise RuntimeError(why)


def test_a_jax_that_keeps_its_store_elsewhere_leaves_the_end_to_its_own_heartbeat(
    monkeypatch,
):
    monkeypatch.setitem(sys.modules, "jax._src.distributed", None)
    run = processes.joined()
    assert (run.client, run.process_id, run.num_processes) == (None, 0, 1)
    threads = threading.active_count()
    with HeartbeatMonitor(30.0):
        assert threading.active_count() == threads


def test_a_late_heartbeat_is_told_from_a_process_that_hangs(monkeypatch):
    store, monitor = Store(monkeypatch), HeartbeatMonitor(30.0)
    for beat in range(100):  # a hundred steps a second; the other's beat is one late
        store.now, processes.mesh.ticks = 2.0 * beat, 200 * beat
        store.other = f"{beat} {max(200 * (beat - 1), 0)}"
        monitor._beat("")
    for beat in range(100, 115):
        store.now, store.other = 2.0 * beat, f"{beat} 19799"
        monitor._beat("")
    store.now, store.other = 231.0, "115 19799"
    with pytest.raises(RuntimeError, match="has not come to step call 19800 for 30 s"):
        monitor._beat("")


SLURM = {
    "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
}  # fmt: skip
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}
MPI5 = MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
MPI4 = MPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}
PMI = {
    "PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1",
}  # fmt: skip
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (SLURM, "slurm"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        # a batch script itself, and the shell of salloc
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),
        ({"SLURM_NTASKS": "4"}, None),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "node[1-2]"}, None),
        (MPI4, "ompi"),
        (MPI5, "mpi"),  # Open MPI 5 gives no address; on one machine it is known
        (MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (SLURM | MPI4, "ompi"),  # mpirun within srun: it started this process
        (SLURM | MPI5, "mpi"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"} | MPI5, "mpi"),
        (SLURM | MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (PMI, "mpi"),  # MPICH and Intel MPI
        (PMI | {"PMI_SIZE": "1"}, None),
        (SLURM | PMI, "slurm"),  # srun --mpi=pmi2: both say the same
        (SLURM | {"SLURM_PROCID": "0"} | PMI, "mpi"),  # mpiexec started by srun
        (SLURM | {"PMIX_RANK": "1", "PMIX_NAMESPACE": "slurm.pmix.7.0"}, "slurm"),
        (POD | MPI5, "mpi"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),  # a pod of no indexed job
    ],
)
def test_the_environment_is_looked_through_unless_told_not_to(environ, expected):
    assert cluster(Processes(), environ) == expected
    assert cluster(Processes(detect=False), environ) is None
    given = Processes("host:70", 2, 1, detect=False)
    assert cluster(given, environ) == "flags"


PORT = {"JAX_COORDINATOR_PORT": "7777"}


@pytest.mark.parametrize(
    ("environ", "address", "ranks"),
    [(MPI5, "127.0.0.1", (4, 0)), (PMI, "127.0.0.1", (2, 1)),
     (PMI | PORT, "127.0.0.1:7777", (2, 1))],
)  # fmt: skip
def test_what_mpi_leaves_open_is_filled_in(environ, address, ranks):
    found = filled_in(Processes(), "mpi", environ)
    assert found.coordinator.startswith(address)
    assert (found.processes, found.process) == ranks
    again = filled_in(Processes(), "mpi", environ | {"PMI_RANK": "0"})
    assert again.coordinator == found.coordinator
    given = filled_in(Processes("node1:7000"), "mpi", environ)
    assert given.coordinator == "node1:7000"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (MPI5 | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, "--coordinator HOST:PORT"),
        (PMI | {"MPI_LOCALNRANKS": "1"}, "--coordinator HOST:PORT"),
        ({"PMIX_RANK": "1", "PMIX_NAMESPACE": "prterun-1"}, "--no-detect"),
        (PMI | {"PMI_RANK": "two"}, "PMI_RANK is 'two'"),
        (PMI | {"PMI_RANK": "2"}, "PMI_RANK is '2'"),
    ],
)
def test_what_mpi_does_not_tell_is_asked_for(environ, message, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(JaxnnError, match=message):
        filled_in(Processes(), cluster(Processes(), environ), environ)


def test_a_pod_without_the_package_that_asks_kubernetes_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(JaxnnError, match=r"pip install kubernetes.*--no-detect"):
        cluster(Processes(), POD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"process": None}, r"--process not given.*--process 0"),
        ({"coordinator": None, "processes": None}, "--coordinator, --processes not"),
        ({"coordinator": "host"}, "HOST:PORT"),
        ({"coordinator": "host:99999"}, "HOST:PORT"),
        ({"process": 2}, "expected 0 to 1"),
        ({"process": -1}, "expected 0 to 1"),
    ],
)
def test_flags_that_do_not_fit_are_named(change, message):
    with pytest.raises(JaxnnError, match=message):
        cluster(replace(Processes("host:70", 2, 0), **change), {})


def test_flags_that_one_process_would_ignore_are_refused():
    for given, name in (
        ({"local_device_ids": (0,)}, "--local-device-ids"),
        ({"rank_timeout": 5.0}, "--rank-timeout"),
    ):
        ranks, message = Processes(detect=False, **given), f"{name}: got .* by itself"
        with pytest.raises(JaxnnError, match=message), distributed_run(ranks, None):
            pass


def test_the_command_line_names_what_is_missing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--processes", "2"]) == 2
    assert "--coordinator, --process not given" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
