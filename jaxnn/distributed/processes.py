"""Several processes as one run: how they find each other, and how they end.

JAX's own runtime connects them (`jax.distributed`). What it leaves open is the end: a
process that dies, stops or hangs leaves the others waiting in a collective. So each
writes a heartbeat into the store that connects them, and ends when another's is
missing.
"""

import importlib.util
import os
import re
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
from jax.sharding import Mesh

from jaxnn.distributed import mesh
from jaxnn.distributed.mesh import LostError, data_mesh
from jaxnn.environment import Processes
from jaxnn.errors import JaxnnError, first_line

STATUS = re.compile(
    "(ABORTED|CANCELLED|DATA_LOSS|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): "
)
"""How the words of an error begin that JAX's runtime makes a ValueError of."""
JOIN_SECONDS = 300  # the pods of a cluster may start minutes apart


@contextmanager
def distributed_run(ranks: Processes, devices: int | None) -> Iterator[Mesh | None]:
    """The mesh of a run, this process joined with the others; None for one device.

    Args:
      ranks: which process this is; see `jaxnn.environment.Processes`.
      devices: of all processes together; None: one, or all with several processes.

    With several processes an error inside ends this one at once, with a message: the
    usual way out would wait for the others. So does one of them that dies or hangs.

    Raises:
      JaxnnError: flags that do not fit together, too few devices, nobody answers.
    """
    how = cluster(ranks)
    if how is None:
        _check_unused(ranks)
        show_cpu_devices(devices or 1)
        yield None if devices is None or devices == 1 else data_mesh(devices)
        return
    ranks = filled_in(ranks, how)
    join(ranks, how)
    try:
        count = joined().num_processes
        if devices is not None and devices % count:
            raise JaxnnError(
                f"--devices: got {devices} for {count} processes, expected a multiple"
            )
        show_cpu_devices((devices or count) // count)
        with HeartbeatMonitor(ranks.rank_timeout):
            yield data_mesh(devices)
        jax.distributed.shutdown()  # all are here; process 0 goes on by itself
    except BaseException as error:
        _end(error)


def joined() -> Any:
    """What JAX knows of the processes: `client`, `process_id`, `num_processes`.

    The client, through which they share a store, has no public name. A JAX that keeps
    it elsewhere gives None: there are no heartbeats of ours then, and JAX's own end a
    process whose others are gone.
    """
    try:
        from jax._src.distributed import global_state
    except ImportError:
        me, count = jax.process_index(), jax.process_count()
        return SimpleNamespace(client=None, process_id=me, num_processes=count)
    return global_state


def cluster(ranks: Processes, environ: Mapping[str, str] = os.environ) -> str | None:
    """How the processes find each other: "flags", "slurm", "ompi", "mpi", "mpi4py" or
    "k8s"; None: alone.

    Raises:
      JaxnnError: flags are missing, and nothing in the environment fills them in.
    """
    flags = ("coordinator", "processes", "process")
    missing = [f"--{name}" for name in flags if getattr(ranks, name) is None]
    if not missing:
        _check(ranks)
        return "flags"
    found = _detected(environ) if ranks.detect else None
    if found == "mpi" and "--coordinator" in missing and _scattered(environ):
        found = "mpi4py" if importlib.util.find_spec("mpi4py") is not None else found
    if found is None and len(missing) < len(flags):
        raise JaxnnError(
            f"several processes: {', '.join(missing)} not given"
            + (", and no SLURM, MPI or Kubernetes found" if ranks.detect else "")
            + "; expected such as --coordinator 10.0.0.1:7000 --processes 2 --process 0"
        )
    if found == "k8s" and importlib.util.find_spec("kubernetes") is None:
        raise JaxnnError(
            "this is a pod of an indexed Kubernetes job, but the package kubernetes is "
            "missing: pip install kubernetes; or give --coordinator, --processes and "
            "--process; or --no-detect for a process by itself"
        )
    return found


def _check_unused(ranks):
    """Raise for what only several processes would heed."""
    for name in ("local_device_ids", "rank_timeout"):
        value = getattr(ranks, name)
        if value != getattr(Processes(), name):
            raise JaxnnError(
                f"--{name.replace('_', '-')}: got {value}, but this process is by "
                "itself; expected it with --coordinator, --processes and --process, "
                "or under SLURM, MPI or Kubernetes, only"
            )


def _check(ranks):
    host, _, port = ranks.coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise JaxnnError(
            f"--coordinator: got {ranks.coordinator!r}, expected HOST:PORT, such as "
            "10.0.0.1:7000"
        )
    if not 0 <= ranks.process < ranks.processes:
        raise JaxnnError(
            f"--process: got {ranks.process} of --processes {ranks.processes}, "
            f"expected 0 to {ranks.processes - 1}"
        )


MPI = {
    "OMPI_COMM_WORLD_SIZE": (
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
    ),
    "PMI_SIZE": ("PMI_RANK", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"),
}  # fmt: skip
"""Number of processes -> which one this is, how many on its machine, which of those;
of Open MPI, and of MPICH and Intel MPI."""


def _detected(environ) -> str | None:
    """What started this process, the innermost first: mpirun may stand within srun.

    Raises:
      JaxnnError: something did that does not say how many they are.
    """

    def number(name):
        text = environ.get(name, "")
        return int(text) if text.isdigit() else 0

    # within `srun` only: a batch script has the job's variables, and runs once
    step = "SLURM_STEP_NODELIST" in environ and "SLURM_PROCID" in environ
    if "OMPI_COMM_WORLD_SIZE" in environ:
        by_jax = "ompi" if "OMPI_MCA_orte_hnp_uri" in environ else "mpi"
        return by_jax if number("OMPI_COMM_WORLD_SIZE") > 1 else None
    if "PMI_SIZE" in environ and "PMI_RANK" in environ:
        task = environ.get("SLURM_PROCID"), environ.get("SLURM_STEP_NUM_TASKS")
        if not step or task != (environ["PMI_RANK"], environ["PMI_SIZE"]):
            return "mpi" if number("PMI_SIZE") > 1 else None
    if step:
        return "slurm" if number("SLURM_STEP_NUM_TASKS") > 1 else None
    if "PMIX_RANK" in environ and "PMIX_NAMESPACE" in environ:
        if importlib.util.find_spec("mpi4py") is not None:
            return "mpi4py"
        raise JaxnnError(
            "PMIx started this process and does not say how many there are: give "
            "--coordinator, --processes and --process, or pip install mpi4py; or "
            "--no-detect for a process by itself"
        )
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        return "k8s"
    return None


def _scattered(environ) -> bool:
    """Whether MPI's processes are on several machines, as far as it says."""
    size = next(name for name in MPI if name in environ)
    return environ.get(MPI[size][1]) != environ[size]


def filled_in(
    ranks: Processes, how: str | None, environ: Mapping[str, str] = os.environ
) -> Processes:
    """What MPI's variables say, where JAX does not read them (`how` is "mpi").

    They hold no address. On one machine it is known; on several mpi4py finds it.

    Raises:
      JaxnnError: variables that do not fit together, or no address.
    """
    if how != "mpi":
        return ranks
    size = next(name for name in MPI if name in environ)
    rank, _, local_rank = MPI[size]
    count = int(environ[size])
    if not environ.get(rank, "").isdigit() or int(environ[rank]) >= count:
        raise JaxnnError(
            f"{rank} is {environ.get(rank)!r} in the environment and {size} {count}, "
            f"expected 0 to {count - 1}; or --no-detect for a process by itself"
        )
    where = ranks.coordinator
    if where is None and _scattered(environ):
        raise JaxnnError(
            f"{count} processes of MPI on several machines: their environment holds no "
            "address; give --coordinator HOST:PORT of the first, or pip install mpi4py"
        )
    if where is None:  # one port for all of this job, and another for another's
        job = environ.get("PMIX_NAMESPACE", "") + str(os.getuid())
        port = 61440 + zlib.crc32(job.encode()) % 4096
        where = f"127.0.0.1:{environ.get('JAX_COORDINATOR_PORT', port)}"
    mine = environ.get(local_rank, "")
    devices = ranks.local_device_ids or ((int(mine),) if mine.isdigit() else ())
    return replace(
        ranks, coordinator=where, processes=count, process=int(environ[rank]),
        local_device_ids=devices,
    )  # fmt: skip


def join(ranks: Processes, how: str) -> None:
    """Connect this process with the others; waits for them, and says so.

    Raises:
      JaxnnError: they do not all come within five minutes.
    """
    where = ranks.coordinator or f"the address that {how} gives"
    who = "this process" if ranks.process is None else f"process {ranks.process}"
    print(
        f"{who} waits for the others at {where}, up to {JOIN_SECONDS} s",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    if how == "mpi":
        how = "flags"  # all is known
    # SIGTERM ends a process, as it does alone: JAX's service would note it and go on
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            ranks.coordinator,
            ranks.processes,
            ranks.process,
            list(ranks.local_device_ids) or None,
            cluster_detection_method="deactivate" if how == "flags" else how,
            initialization_timeout=JOIN_SECONDS,
            # JAX's own heartbeat is the second net: it ends a process, in its own words
            heartbeat_timeout_seconds=max(10, round(1.9 * ranks.rank_timeout)),
            shutdown_timeout_seconds=max(10, round(ranks.rank_timeout)),
        )
    except (RuntimeError, ValueError) as error:
        raise JaxnnError(
            f"{who} could not join the others at {where}: {first_line(error)}. Are "
            "all of them started, with the same --coordinator, and is that port free "
            "and open?"
        ) from error


def show_cpu_devices(count: int) -> None:
    """Let a CPU show `count` devices; nothing happens where JAX has started already."""
    flags = os.environ.get("XLA_FLAGS", "")
    if count > 1 and "xla_force_host_platform_device_count" not in flags:
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)


class HeartbeatMonitor:
    """A thread that ends this process when another one dies, stops or falls behind.

    Args:
      seconds: without a heartbeat of another process; or between this process's call
        `tick` and another's. Training is in step, so nobody may lag for long.
    """

    def __init__(self, seconds: float):
        self.seconds, self.every = seconds, min(2.0, seconds / 5)
        self.over = threading.Event()
        self.seen: dict[int, tuple[str, float]] = {}
        self.waiting: dict[int, tuple[int, float]] = {}

    def __enter__(self):
        mesh.ticks = 0
        if joined().client is None:
            return self
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()

    def _run(self):
        beat, since = 0, time.monotonic()
        while not self.over.wait(self.every):
            slept = time.monotonic() - since
            if slept > self.seconds:
                # at once: the others are gone, and JAX's runtime aborts when it sees it
                abort(f"it was stopped for {slept:.0f} s, and the others did not wait")
            beat += 1
            try:
                self._beat(f"{beat} {mesh.ticks}")
            except Exception as error:
                if not self.over.is_set():
                    abort(f"process 0 does not answer ({first_line(error)})")
            since = time.monotonic()

    def _beat(self, mine):
        run = joined()
        store, me = run.client, run.process_id
        store.key_value_set(f"jaxnn/heartbeat/{me}", mine, allow_overwrite=True)
        now = time.monotonic()
        heartbeats = dict(store.key_value_dir_get("jaxnn/heartbeat/"))
        for other in set(range(run.num_processes)) - {me}:
            heartbeat = heartbeats.get(f"jaxnn/heartbeat/{other}", "0 0")
            before, since = self.seen.get(other, ("", now))
            self.seen[other] = heartbeat, (since if heartbeat == before else now)
            silent = now - self.seen[other][1]
            if silent > self.seconds:
                abort(f"no sign of life from process {other} for {self.seconds:g} s")
            # Its number is as old as its heartbeat, so it is behind at every look: what
            # counts is when it comes to where this process was.
            due, since = self.waiting.get(other, (mesh.ticks, now))
            if int(heartbeat.split()[1]) >= due:
                due, since = mesh.ticks, now
            self.waiting[other] = due, since
            if now - since > self.seconds and silent < 3 * self.every:
                abort(
                    f"process {other} lives, but has not come to step call {due} for "
                    f"{self.seconds:g} s: it hangs, or is far slower"
                )


def abort(why: str, status: int = 1) -> None:
    """End this process now, saying why; waits for nobody."""
    run = joined()
    text = (
        f"jaxnn: error: process {run.process_id} of {run.num_processes} ends: {why}. "
        "What was saved is whole: start all processes again with --resume RUN."
    )
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def _end(error: BaseException) -> None:
    if isinstance(error, LostError) and error.__cause__ is not None:
        _lost(error.__cause__)
    if isinstance(error, JaxnnError):
        print(f"jaxnn: error: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1 if hasattr(error, "history") else 2)
    if isinstance(error, KeyboardInterrupt):
        abort("interrupted", 130)
    if isinstance(error, RuntimeError) or STATUS.match(str(error)):
        _lost(error)
    traceback.print_exception(error)
    abort(f"{type(error).__name__}")


def _lost(error: BaseException) -> None:
    time.sleep(1)  # one that was stopped lost the others by that: its heartbeat says so
    abort(f"it lost another process ({first_line(error)})")
