"""Does the guard name the culprit? Forty faults, each with a known one.

Question: of 40 faults put into small networks of every kind of layer, 20 forward, 14
backward, 6 in optimizer, regularizer or data, how many does the guard find at the right
step, in the right layer and direction, in the right operation, and with the right
sample? And what does it say of 50 healthy runs, some with masks of -inf?

    python -m experiments.guard_faults          about 4 minutes

Each fault shows when one row of the data comes by, or at a known step; every run is a
`jaxnn.fit`, so each fault is found in the compiled loop, then replayed.
Expected: 40 of 40 steps, layers, directions and samples, at least 38 operations, no
false alarm; for 784-512-512-10 on MNIST less than a second after the bad step.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from experiments.common import Line, main, record, verdicts
from experiments.fault_cases import BATCH, CASES, HEALTHY, ROWS, Case, dataset
from jaxnn import fit
from jaxnn.app.build import build, facts_of
from jaxnn.app.config import TrainConfig
from jaxnn.data import load
from jaxnn.train import TrainingError
from jaxnn.train.engine import batch_order


@dataclass(frozen=True)
class Args:
    """Settings."""

    healthy_seeds: int = 5  # Healthy runs of each of ten networks


class Verdict(NamedTuple):
    """Which answers were right."""

    step: bool
    place: bool
    op: bool
    sample: bool
    agree: bool
    told: dict[str, Any]


def expected_step(case: Case) -> tuple[int, int]:
    """(epoch, step) of the first bad step, counted from 1."""
    if case.row is None:
        return 1, case.step
    order = batch_order(ROWS, BATCH, 1)
    return 1, int((order == case.row).any(1).argmax()) + 1


def judge(case: Case, finding) -> Verdict:
    """What of a finding is right."""
    samples = [] if case.row is None else [case.row]
    return Verdict(
        (finding.epoch, finding.step) == expected_step(case),
        (finding.part, finding.layer) == (case.part, case.layer),
        finding.op in case.ops,
        finding.samples == samples,
        finding.agree,
        {
            k: getattr(finding, k)
            for k in (
                "epoch", "step", "part", "layer", "op", "turn", "samples", "line",
                "seconds",
            )
        },
    )  # fmt: skip


def train(case: Case, seed: int | list[int] = 0):
    """The findings of one epoch with a fault."""
    data = dataset(case)
    try:
        history = fit(
            case.net, data, loss=case.loss, optimizer=case.optimizer, batch=BATCH,
            epochs=1, seeds=seed, **case.options,
        )  # fmt: skip
    except TrainingError as error:
        history = error.history
    return history


def faults() -> list[dict]:
    """One row a fault."""
    rows = []
    for name, make in CASES.items():
        case = make()
        found = train(case).findings
        if not found:
            rows.append({"fault": name, "found": False})
            print(f"{name:<44} NOT FOUND")
            continue
        verdict = judge(case, found[0])
        wrong = [
            k for k in ("step", "place", "op", "sample") if not getattr(verdict, k)
        ]
        expected = {"step": expected_step(case)[1], "part": case.part,
                    "layer": case.layer, "ops": case.ops, "row": case.row}  # fmt: skip
        row: dict[str, Any] = {"fault": name, "found": True, "expected": expected}
        rows.append(row | verdict._asdict())
        told, wrong = verdict.told, "  WRONG: " + ", ".join(wrong) if wrong else ""
        where = f"{told['part']:<12}{told['layer'] or '-':<32}{told['op'] or '-':<16}"
        print(f"{name:<44} {where}{wrong}")
    return rows


def healthy(seeds: int) -> list[dict]:
    """Bad steps and findings of runs that are sound."""
    rows = []
    for name, make in HEALTHY.items():
        history = train(make(), list(range(seeds)))
        skipped = np.sum([row["skipped"] for row in history.epochs], 0)
        accused = [finding.seed for finding in history.findings]
        for seed in range(seeds):
            rows.append({"network": name, "seed": seed, "skipped": int(skipped[seed]),
                         "findings": accused.count(seed)})  # fmt: skip
    return rows


def default_network(bad: int = 31_337) -> dict[str, Any]:
    """784-512-512-10 on MNIST, with one image of 55,000 that overflows."""
    data = load("mnist")
    config = TrainConfig(layers=("512", "512"), epochs=1)
    e = build(config, facts_of(data), data)
    x = data.train.x.astype(np.float32) / np.float32(255)
    x[bad] = 3e38
    history = fit(
        e.net, (x, data.train.y), loss=e.loss, optimizer=e.optimizer,
        batch=e.config.batch, epochs=1, **e.options,
    )  # fmt: skip
    (finding,) = history.findings
    print(f"default network: step {finding.step}, {finding.layer}, {finding.op}, image "
          f"{finding.samples}, located in {finding.seconds:.2f} s")  # fmt: skip
    return {
        "network": e.net.name, "step": finding.step, "layer": finding.layer,
        "op": finding.op, "samples": finding.samples, "seconds": finding.seconds,
        "right": finding.samples == [bad], "skipped": history.epochs[0]["skipped"],
    }  # fmt: skip


def run(args: Args) -> None:
    default = default_network()  # first: what locating loads is part of it
    rows = faults()
    sound = healthy(args.healthy_seeds)
    answers = ("step", "place", "op", "sample", "agree")
    right = {k: sum(bool(r.get(k)) for r in rows) for k in answers}
    alarms = sum(r["skipped"] + r["findings"] > 0 for r in sound)
    slowest = max(r["told"]["seconds"] for r in rows if r["found"])
    values = {
        "default_network": default, "faults": rows, "right": right, "healthy": sound,
        "false_alarms": alarms, "slowest_seconds": slowest,
    }  # fmt: skip
    print(f"both ways agree: {right['agree']} of {len(rows)}")
    verdicts(
        Line("steps", right["step"], 40),
        Line("layers and directions", right["place"], 40),
        Line("operations", right["op"], 38), Line("samples", right["sample"], 40),
        Line(f"false alarms in {len(sound)} healthy runs", alarms, high=0),
        Line("image of the default network", default["right"], 1),
        Line("its seconds", default["seconds"], high=1), percent=False,
    )  # fmt: skip
    record("guard_faults", args, values)


if __name__ == "__main__":
    main(Args, run)
