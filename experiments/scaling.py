"""What data parallel training says and costs, on 1, 2, 4 and 8 simulated devices.

Question: how many bytes does a step send, and how does the time of a step grow with the
number of devices, at the same batch in all (strong) and a device (weak)?

    python -m experiments.scaling        about 2 minutes on 2 quiet cores

Expected: one all-reduce of the gradients, so the parameters' bytes within 10% (batch
norm's statistics aside). The times are of simulated devices: they share this machine's
cores, so eight cannot be faster than two cores are. What they show is the overhead:
efficiency is the time of one device over the time of n, times n for weak scaling,
as n devices' work is done by the same cores.
"""

import os
from dataclasses import dataclass
from functools import partial

DEVICES = (1, 2, 4, 8)
FLAG = "--xla_force_host_platform_device_count=8"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}".strip()

import jax  # noqa: E402 - the number of devices is read when jax starts
import numpy as np  # noqa: E402
import optax  # noqa: E402

from experiments.collectives import collectives  # noqa: E402
from experiments.common import Line, main, record, verdicts  # noqa: E402
from experiments.turns import in_turn, waited_for  # noqa: E402
from jaxnn import make_step, mlp  # noqa: E402
from jaxnn.distributed import data_mesh  # noqa: E402
from jaxnn.distributed.mesh import DataParallel  # noqa: E402
from jaxnn.losses import softmax_cross_entropy  # noqa: E402


@dataclass(frozen=True)
class Args:
    """Settings."""

    width: int = 512  # Of the two hidden layers of 784-width-width-10
    batch: int = 512  # Images a step: in all (strong scaling), on eight devices (weak)
    steps: int = 20  # Timed in a row, after one call to warm up
    rounds: int = 5  # Of which the median counts; all numbers of devices take turns


def one_step(net, devices: int, batch: int):
    """(compiled step, its arguments, bytes of the parameters)."""
    optimizer = optax.adam(1e-3)
    step = make_step(net, softmax_cross_entropy, optimizer)
    spread = DataParallel(data_mesh(devices), batch)
    key = jax.random.key(0)
    ts, key = spread.replicate((step.start((batch, 784), key), key))
    x = np.random.default_rng(0).integers(0, 256, (batch, 784)).astype(np.uint8)
    x, y = spread.rows((x, np.arange(batch) % 10), np.arange(batch))
    program = jax.jit(step, out_shardings=spread.everywhere).lower(ts, x, y, key)
    size = sum(a.nbytes for a in jax.tree.leaves(ts.params))
    return program.compile(), (ts, x, y, key), size


def several(compiled, given, steps: int):
    ts, *rest = given
    for _ in range(steps):
        ts, _ = compiled(ts, *rest)
    return ts


def said(args: Args) -> dict:
    """Bytes and kinds of the collectives of one step on 8 devices."""
    found = {}
    widths = [784, args.width, args.width, 10]
    for name, normalize in (("plain", False), ("batch norm", True)):
        net = mlp(widths, drop_rate=0.2, normalize=normalize)
        compiled, _, size = one_step(net, 8, args.batch)
        every = collectives(compiled)
        total = sum(sum(c.sizes) for c in every)
        found[name] = {
            "parameters_bytes": size, "collective_bytes": total, "ratio": total / size,
            "operations": [c.kind for c in every],
        }  # fmt: skip
        print(f"{name:<11} parameters {size:,} bytes, sent a step {total:,} "
              f"({total / size:.4f}) in {len(every)} operations")  # fmt: skip
    return found


def times(args: Args) -> dict:
    """Milliseconds a step, by kind of scaling and number of devices."""
    net = mlp([784, args.width, args.width, 10], drop_rate=0.2)
    cases = {("strong", n): args.batch for n in DEVICES}
    cases |= {("weak", n): args.batch // 8 * n for n in DEVICES}
    programs = {}
    for case, batch in cases.items():
        compiled, given, _ = one_step(net, case[1], batch)
        programs[case] = waited_for(partial(several, compiled, given, args.steps))
    timed = in_turn(programs, args.rounds, pause=0)
    seen = {case: [1000 * s / args.steps for s in timed[case]["seconds"]]
            for case in cases}  # fmt: skip
    found: dict = {}
    for (kind, n), values in seen.items():
        one = float(np.median(seen[kind, 1]))
        median = float(np.median(values))
        share = one / median * (n if kind == "weak" else 1)
        found.setdefault(kind, {})[str(n)] = {
            "batch": cases[kind, n], "ms_a_step": median, "all_ms": values,
            "efficiency_on_shared_cores": share,
        }  # fmt: skip
        print(f"{kind:<7}{n} devices  batch {cases[kind, n]:>4}  {median:8.2f} ms a "
              f"step  efficiency {share:.2f}")  # fmt: skip
    return found


def run(args: Args) -> None:
    values = {"collectives": said(args), "times": times(args)}
    ratio = values["collectives"]["plain"]["ratio"]
    verdicts(Line("bytes a step / parameters' bytes", ratio, 0.9, 1.1), percent=False)
    record("scaling", args, values)


if __name__ == "__main__":
    main(Args, run)
