"""What every experiment shares: arguments, the record it leaves, where it lies."""

import dataclasses
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from jaxnn.environment import device, git_commit, versions
from jaxnn.files import write_json

RESULTS = Path(__file__).resolve().parent / "results"
"""Where results are committed: one JSON an experiment, pictures beside it."""

Args = TypeVar("Args")


def main(args: type[Args], run: Callable[[Args], Any]) -> None:
    """Parse the command line into the dataclass `args` and run the experiment."""
    from jaxnn.compile_cache import enable_compile_cache
    from jaxnn.errors import JaxnnError

    settings = tyro.cli(args, description=sys.modules["__main__"].__doc__)
    enable_compile_cache()
    try:
        run(settings)
    except JaxnnError as error:
        sys.exit(f"error: {error}")


def record(
    name: str,
    args: Any,
    values: dict,
    more_packages: Sequence[str] = (),
    module: str | None = None,
) -> Path:
    """Write `experiments/results/NAME.json`: what was measured and all it depends on.

    Args:
      name: of the result, as a rule the experiment's module.
      args: its dataclass of settings.
      values: what was measured, plain numbers and lists.
      more_packages: packages whose versions matter besides jaxnn's own.
      module: the experiment's module where it is not `name`.
    """
    path = RESULTS / f"{name}.json"
    write_json(
        path,
        {
            "experiment": name,
            "command": shlex.join(
                ["python", "-m", f"experiments.{module or name}", *sys.argv[1:]]
            ),
            "date": time.strftime("%Y-%m-%d"),
            "config": dataclasses.asdict(args),
            "values": values,
            "versions": versions(*more_packages),
            "machine": device(),
            "git": git_commit(),
        },
    )
    print(f"written to {path}")
    return path


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation, n and the values themselves."""
    values = [float(v) for v in values]
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": std, "n": len(values),
            "values": values}  # fmt: skip
