"""Pure tasks: one after the other here, or wherever a Ray cluster has room.

A task is a function of what all tasks share and of an item of its own. It can be
pickled, writes nothing, and gives the same wherever it runs, however often: so a task
whose worker was lost is run again by another.
"""

import os
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

from jaxnn.environment import versions
from jaxnn.errors import JaxnnError, first_line
from jaxnn.files import locked
from jaxnn.programs import SETTINGS, setting
from jaxnn.tree import in_turn

Function = Callable[[Any, Any], Any]
Engine = Callable[[Function, Sequence[Any], Any], Iterator[tuple[int, Any]]]

TRIES = 4
"""Of a task whose workers are lost."""
ANSWER_SECONDS = 5
"""That a cluster's address may take to answer."""


_engine: ContextVar[Engine] = ContextVar("engine", default=in_turn)


def run_tasks(
    function: Function, items: Sequence[Any], shared: Any = None
) -> Iterator[tuple[int, Any]]:
    """Give (number of the item, `function(shared, item)`) of every item.

    Each comes as soon as it is done: in turn, unless an `engine` runs several at once.
    An error in a task is raised here. Those still under way end with the `engine`.

    Args:
      function: of a module, or it is sent along with each task.
      items: small, one a task.
      shared: what all tasks read, arrays say; sent once. What cannot be pickled is
        done here.
    """
    return _engine.get()(function, items, shared)


@contextmanager
def engine(
    name: str, address: str | None = None, prepare: Callable[[], Any] = versions
) -> Iterator[None]:
    """Within, tasks are run here ("local"), or by the workers of a cluster ("ray").

    Args:
      name: which.
      address: HOST:PORT of the cluster; "auto", the one this machine is part of;
        "local", a new one of this machine's cores. None: what `RAY_ADDRESS` says, else
        auto, else local. Where Ray has been started in this process, that is used.
      prepare: called by a worker before each task.

    Raises:
      JaxnnError: Ray is not installed; no cluster answers at the address.
    """
    if name == "local":
        yield
        return
    ray, started = _started(address)
    running: dict[Any, int] = {}
    token = _engine.set(partial(_on_ray, ray, prepare, running))
    try:
        yield
    finally:
        _engine.reset(token)
        for one in running:
            ray.cancel(one, force=True)
        if started:
            ray.shutdown()


def _started(address: str | None) -> tuple[Any, bool]:
    """The module ray, connected, and whether this call did that."""
    # lines of progress differ in their numbers only: all of them are shown
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    try:
        import ray
    except ImportError as error:
        raise JaxnnError(
            "engine ray: the package ray is not installed; pip install 'jaxnn[ray]'"
        ) from error
    if ray.is_initialized():
        return ray, False
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address not in (None, "auto", "local"):  # Ray itself would try for a minute
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        with warnings.catch_warnings():  # of a fork, in which it starts its processes
            warnings.simplefilter("ignore", RuntimeWarning)
            ray.init(address, logging_level="ERROR", include_dashboard=False)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise JaxnnError(
            f"engine ray: no cluster at {address or 'this machine'} "
            f"({first_line(error)}); expected HOST:PORT as `ray start --head` prints "
            "it, auto or local; none uses this machine's cores"
        ) from error
    return ray, True


def _on_ray(ray, prepare, running, function, items, shared=None):
    gpus = min(1, ray.cluster_resources().get("GPU", 0))
    try:
        sent = ray.put((prepare, versions(), not gpus, function, shared))
    except JaxnnError:  # a layer that was written by hand, which cannot be pickled
        yield from in_turn(function, items, shared)
        return
    task = ray.remote(_task).options(
        num_cpus=1, num_gpus=gpus,
        max_retries=TRIES - 1, name=function.__name__,
        runtime_env={"env_vars": _environment()},
    )  # fmt: skip
    mine = {task.remote(sent, item): n for n, item in enumerate(items)}
    running.update(mine)
    number = 0
    try:
        while mine:
            (done,), _ = ray.wait([*mine])
            number = mine.pop(done)
            found = ray.get(done)
            del running[done], done
            yield number, found
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise JaxnnError(
            f"engine ray: {function.__name__} {number} lost its worker {TRIES} times "
            f"({first_line(error)}); is there memory enough for a task on each core?"
        ) from error


def _task(sent, item):
    """What a worker does: the task, if all is installed as it is there."""
    prepare, wanted, on_core, function, shared = sent
    if (mine := versions()) != wanted:
        raise JaxnnError(
            f"engine ray: {socket.gethostname()} has {mine}, expected {wanted}; "
            "results are the same only where the packages are"
        )
    if on_core:
        _take_core()
    prepare()
    return function(shared, item)


_core = ExitStack()


def _take_core():
    """Keep this worker to a core that no other one keeps to, if there is one.

    It has as many threads as there are where the tasks come from, as some sums depend
    on their number; on one core they do not take those of other workers.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    for core in cores if len(cores) > 1 else ():
        with suppress(JaxnnError):  # another worker's
            folder = Path(tempfile.gettempdir()) / f"jaxnn-core-{core}"
            _core.enter_context(locked(folder, "core"))
            for thread in os.listdir("/proc/self/task"):
                os.sched_setaffinity(int(thread), {core})
            return


def _environment() -> dict[str, str]:
    """The environment of a worker: JAX as it is set here, and no memory ahead."""
    found = {k: v for k, v in os.environ.items() if k.startswith(("JAX_", "XLA_"))}
    for name in (*SETTINGS, "jax_platforms"):
        if isinstance(value := setting(name), bool | str):
            found[name.upper()] = str(value)
    threads = len(getattr(os, "sched_getaffinity", lambda _: ())(0)) or os.cpu_count()
    found["PJRT_NPROC"] = os.environ.get("PJRT_NPROC") or str(threads)
    return found | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
