"""Programs that are compared take turns: a machine that slows down slows them all."""

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

Program = Callable[[int], Any]  # epoch number -> when it has finished


def in_turn(
    programs: Mapping[Any, Program], rounds: int, pause: float = 0.2
) -> dict[Any, dict]:
    """Run one epoch of each program in turn, `rounds` times after a first; seconds.

    While one is `disturbed`, up to twice as often: other programs come and go.
    `pause`: seconds before each. The threads of BLAS and OpenMP spin for a while after
    their last work; programs of XLA alone need none.
    """
    first = {name: _timed(program, 0, pause) for name, program in programs.items()}
    seconds: dict[Any, list[float]] = {name: [] for name in programs}
    names = list(programs)
    gc.freeze()  # what compiling left need not be looked through before every run
    try:
        for number in range(1, 2 * rounds + 1):
            if number > rounds and not any(map(disturbed, seconds.values())):
                break
            random.Random(number).shuffle(names)
            for name in names:
                seconds[name].append(_timed(programs[name], number, pause))
    finally:
        gc.unfreeze()
    return {
        name: {
            "seconds": times,
            "median": float(np.median(times)),
            "compile": max(first[name] - float(np.median(times)), 0.0),
        }
        for name, times in seconds.items()
    }


def disturbed(times: Sequence[float]) -> bool:
    """Whether the middle half of the times spreads over a quarter of the median."""
    low, middle, high = np.quantile(times, (0.25, 0.5, 0.75))
    return bool(high - low > 0.25 * middle)


def spread(times: Sequence[float], unit: float = 1.0) -> str:
    """The median and the middle half of the times, in words; unit: seconds of it."""
    low, middle, high = np.quantile(times, (0.25, 0.5, 0.75)) / unit
    word = ", disturbed" * disturbed(times)
    return f"{middle:.3g} ({low:.3g} to {high:.3g}{word})"


def ratio(found: dict, slow: str, fast: str) -> float:
    """Median over rounds of seconds of `slow` / seconds of `fast` in that round."""
    pairs = zip(found[slow]["seconds"], found[fast]["seconds"], strict=True)
    return float(np.median([a / b for a, b in pairs]))


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median time of a call, after two that warm up."""
    run()
    return in_turn({"it": waited_for(run)}, repeats, pause=0)["it"]["median"]


def waited_for(run: Callable[[], Any]) -> Program:
    """`run` as a program, which ends when its results are there."""
    return lambda _: jax.block_until_ready(run())


def _timed(program: Program, number: int, pause: float) -> float:
    gc.collect()
    time.sleep(pause)
    start = time.perf_counter()
    program(number)  # returns a number on the host, so it has finished
    return time.perf_counter() - start
