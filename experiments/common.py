"""What every experiment shares: arguments, the record it leaves, where it lies."""

import dataclasses
import math
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jaxnn.environment import device, git_commit, versions
from jaxnn.files import write_json

RESULTS = Path(
    os.environ.get("JAXNN_RESULTS") or Path(__file__).resolve().parent / "results"
)
"""Where results are committed: one JSON an experiment, pictures beside it. (Where
`jaxnn demo` runs one: its own folder.)"""

Args = TypeVar("Args")
CLOCK = {"began": time.perf_counter()}
"""When the experiment that runs began."""


def main(args: type[Args], run: Callable[[Args], Any]) -> None:
    """Parse the command line into the dataclass `args` and run the experiment."""
    from jaxnn.app.compile_cache import enable_compile_cache
    from jaxnn.app.flags import parsed
    from jaxnn.errors import JaxnnError

    here = sys.modules["__main__"]
    program = f"python -m {here.__spec__.name if here.__spec__ else here.__file__}"
    try:
        settings = parsed(program, args, sys.argv[1:], here.__doc__ or "")
        enable_compile_cache()
        CLOCK["began"] = time.perf_counter()
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

    `values` are plain numbers and lists; the `seconds` they took are added.
    `more_packages` matter besides jaxnn's own; `module` where it is not `name`.
    """
    path = RESULTS / f"{name}.json"
    values = {"seconds": time.perf_counter() - CLOCK["began"]} | values
    write_json(
        path,
        {
            "experiment": name,
            "command": shlex.join(
                ["python", "-m", f"experiments.{module or name}", *sys.argv[1:]]
            ),
            "date": time.strftime("%Y-%m-%d"),
            "config": dataclasses.asdict(args),
            "values": relative(values),
            "versions": versions(*more_packages),
            "machine": device(),
            "git": git_commit(),
        },
    )
    print(f"saved to {path}")
    return path


def relative(value: Any) -> Any:
    """`value` with the paths in its strings relative to the project: no machine's."""
    if isinstance(value, dict):
        return {k: relative(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [relative(v) for v in value]
    root = f"{Path(__file__).parents[1]}/"
    return value.replace(root, "") if isinstance(value, str) else value


def conclude(
    name: str,
    args: Any,
    values: dict,
    pictures: Mapping[str, Any],
    see: str,
    **more: Any,
) -> None:
    """Save the pictures and the record; say where they lie and what to look for.

    `pictures`: file in `results/NAME` -> a figure, or a function that draws to a path.
    """
    from jaxnn.plots.panels import save

    paths = {RESULTS / name / file: drawn for file, drawn in pictures.items()}
    for path, drawn in paths.items():
        if callable(drawn):
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn(path)
        else:
            save(drawn, path)
    record(name, args, values, **more)
    print("\nWhat to see", *(f"  {path}" for path in paths), see.rstrip("\n"), sep="\n")


class Line(NamedTuple):
    """One number that is expected: what, measured, and the range it should be in."""

    what: str
    value: float
    low: float = -math.inf
    high: float = math.inf


def in_words(line: Mapping[str, Any]) -> tuple[list[str], str]:
    """The bounds of a recorded line that are finite, and its number."""

    def said(value):
        return f"{100 * value:.4g}%" if line.get("percent", True) else f"{value:.4g}"

    bounds = [
        f"{sign} {said(line[name])}"
        for sign, name in ((">=", "low"), ("<=", "high"))
        if line[name] is not None and math.isfinite(line[name])
    ]
    return bounds, said(line["value"])


def verdicts(*lines: Line, percent: bool = True) -> list[dict[str, Any]]:
    """Print each number with pass or miss, and return them for the record."""
    print("\nExpected and measured")
    rows = []
    for line in lines:
        passed = bool(line.low <= line.value <= line.high)
        rows.append(line._asdict() | {"passed": passed, "percent": percent})
        bounds, number = in_words(rows[-1])
        word = "pass" if passed else "MISS"
        print(f"  {word}  {line.what}: {number} ({' and '.join(bounds)})")
    return rows


class Trained(NamedTuple):
    """S networks after training; every array has a leading axis S."""

    params: Any
    state: Any
    losses: Any  # (S, steps)
    path: Any  # the parameters at the start and every so many steps, (K + 1, S, ...)


def train_many(
    net: Any,
    loss: Callable,
    optimizer: Any,
    x: Any,
    y: Any,
    *,
    seeds: Sequence[int],
    steps: int,
    own_data: bool = False,
    penalty: Callable | None = None,
    every: int | None = None,
) -> Trained:
    """Train one small network a seed, all at once, each step on all rows.

    `jaxnn.fit` goes through shuffled batches of one data set; this is for tables and
    toys: whole-batch steps, and with `own_data` x and y of each seed, with a leading
    axis S. One program: `vmap` over the seeds of a `scan` over the steps. The path has
    an entry every `every` steps; None: start and end only.
    """
    import jax
    import jax.numpy as jnp

    from jaxnn import make_step
    from jaxnn.train import init_state

    step, every = make_step(net, loss, optimizer, penalty=penalty), every or steps

    def one(key, x, y):
        def several(ts, _):
            def once(ts, _):
                ts, metrics = step(ts, x, y, key)
                return ts, metrics["loss"]

            ts, losses = jax.lax.scan(once, ts, length=every)
            return ts, (ts.params, losses)

        start = init_state(net, optimizer, x.shape[1:], key)
        end, (path, losses) = jax.lax.scan(several, start, length=steps // every)
        path = jax.tree.map(
            lambda a, b: jnp.concatenate([a[None], b]), start.params, path
        )
        return Trained(end.params, end.state, losses.reshape(-1), path)

    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    data = 0 if own_data else None
    # the path's axis of time comes first: a frame of a film is one entry
    out = Trained(0, 0, 0, 1)  # type: ignore[arg-type]
    many = jax.vmap(one, in_axes=(0, data, data), out_axes=out)
    return jax.block_until_ready(jax.jit(many)(keys, jnp.asarray(x), jnp.asarray(y)))


def at(tree: Any, *index: Any) -> Any:
    """Entry `index` of every array of a tree: at(path, step, seed)."""
    import jax

    return jax.tree.map(lambda a: a[index], tree)


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Mean, sample standard deviation, n and the values themselves."""
    values = [float(v) for v in values]
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": std, "n": len(values),
            "values": values}  # fmt: skip


def spreads(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """`spread` of each number over the rows, one a seed."""
    return {name: spread(row[name] for row in rows) for name in rows[0]}


def percents(values: Any) -> str:
    """Mean +- standard deviation of shares, in percent."""
    found = spread(values)
    more = f" +- {100 * found['std']:.1f}" if found["n"] > 1 else ""
    return f"{100 * found['mean']:.1f}{more}"


def print_epoch(row: Mapping[str, float]) -> None:
    """One line an epoch: `fit`'s `on_epoch`."""
    name = "validation_accuracy"
    more = f"  validation {100 * row[name]:.2f}%" if name in row else ""
    print(f"  epoch {row['epoch']:>2}  loss {row['loss']:.3f}{more}  "
          f"{row['seconds']:.0f} s", flush=True)  # fmt: skip
