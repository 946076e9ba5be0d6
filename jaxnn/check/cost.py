"""What a gradient costs: time, memory and arithmetic, by hand and by JAX."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax

from jaxnn.check.automatic import automatic
from jaxnn.check.job import Job
from jaxnn.layers import Layer


@dataclass(frozen=True)
class Cost:
    """What one program costs; None where the device does not say.

    Attributes:
      seconds: median of the runs.
      compile_seconds: tracing and compiling, before the first run.
      flops: floating-point operations by XLA's count.
      peak_bytes: memory the program needs at once, arguments and results included.
      residual_bytes: what is kept from the forward for the backward pass, the
        parameters not counted, before XLA removes what it can do without.
    """

    seconds: float
    compile_seconds: float
    flops: float | None
    peak_bytes: int | None
    residual_bytes: int | None = None


def measure(
    programs: dict[str, Callable], *args: Any, runs: int = 20
) -> dict[str, Cost]:
    """Compile the programs and run them in turn on the same arguments.

    In turn, so that a machine that slows down slows them all; the first run of each is
    not counted. Returns name -> `Cost`.
    """
    compiled, prepared = {}, {}
    for name, program in programs.items():
        start = time.perf_counter()
        compiled[name] = jax.jit(program).lower(*args).compile()
        prepared[name] = time.perf_counter() - start
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(runs + 1):
        for name, program in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*args))
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {
        name: Cost(
            statistics.median(seconds[name]),
            prepared[name],
            _flops(program),
            _peak_bytes(program),
        )
        for name, program in compiled.items()
    }


def residual_bytes(
    net: Layer, params: Any, state: Any, x: Any, *, key: Any = None, train: bool = True
) -> dict[str, int]:
    """Bytes that "manual" and "automatic" keep between forward and backward.

    The cache of the network, and the residuals of `jax.vjp`; parameters, which both
    hold on to and which are there anyway, are not counted, nor is any array twice.
    """
    found = {}
    for name, way in (("manual", net), ("automatic", automatic(net))):

        def forward(params, state, x, way=way):
            cache = way.forward(params, state, x, key=key, train=train)[2]
            given = {id(a) for a in jax.tree.leaves((params, state))}
            kept = {id(a): a for a in jax.tree.leaves(cache) if id(a) not in given}
            return list(kept.values())

        shapes = jax.eval_shape(forward, params, state, x)
        found[name] = sum(a.size * a.dtype.itemsize for a in shapes)
    return found


def compare_costs(job: Job, runs: int = 20) -> dict[str, Cost]:
    """One gradient of a job in float32, for parameters and input, both ways."""
    args = job.at("float32")
    found = measure(
        {"manual": job.manual, "automatic": job.automatic}, *args, runs=runs
    )
    p, s, x, _, key = args
    kept = residual_bytes(job.net, p, s, x, key=key, train=job.train)
    return {
        name: replace(cost, residual_bytes=kept[name]) for name, cost in found.items()
    }


def _flops(program) -> float | None:
    try:
        analysis = program.cost_analysis()
    except (NotImplementedError, RuntimeError):
        return None
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return float(analysis["flops"]) if analysis and "flops" in analysis else None


def _peak_bytes(program) -> int | None:
    try:
        memory = program.memory_analysis()
    except (NotImplementedError, RuntimeError):
        return None
    if memory is None:
        return None
    return int(
        memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )
