"""An evaluation as a page, as JSON, as lines on a screen and as pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.files import draw, write_json, write_text
from jaxnn.robustness.evaluate import Evaluation
from jaxnn.robustness.threat import Proportion
from jaxnn.robustness.transfer import Transfer
from jaxnn.text import document, escaped, spread, table


def to_json(e: Evaluation) -> dict[str, Any]:
    """All of the evaluation but its images; accuracies are shares in [0, 1]."""
    return {
        "verdict": e.verdict,
        "believable": e.believable,
        "threat": dict(e.threat._asdict()),
        "level": e.level,
        "images": e.clean.total,
        "sample": len(e.sample),
        "clean": _proportion(e.clean),
        "robust": _proportion(e.robust),
        "rounds": [r._asdict() | {"alone": _proportion(r.alone)} for r in e.rounds],
        "targeted_least_likely_success": _proportion(e.targeted),
        "curve": {
            "epsilon": e.epsilons.tolist(),
            **{name: accuracy.tolist() for name, accuracy in e.curve.items()},
        },
        "checks": [c._asdict() for c in e.checks],
        "layers": [layer._asdict() for layer in e.layers],
        "not_attacked_images": e.not_attacked.tolist(),
        "not_finite_images": e.not_finite.tolist(),
        "broken_images": np.flatnonzero(~e.robust_images).tolist(),
        "seconds": e.seconds,
    }


def _proportion(share: Proportion) -> dict[str, Any]:
    return {
        "share": share.value,
        "count": share.count,
        "of": share.total,
        "wilson_95": list(share.interval),
    }


def lines(e: Evaluation) -> list[str]:
    """What a person wants to read on the screen."""
    noted = [c for c in e.checks if c.verdict in ("warn", "fail")]
    return [
        *_warnings(e),
        f"verdict        {e.verdict}",
        f"threat model   {e.threat}",
        f"clean          {e.clean} of {e.clean.total:,} images",
        f"robust         {e.robust} worst case per image, {e.level} suite",
        *[f"  {r.name:<26}broke {r.broken:>6,} of {r.tried:,}" for r in e.rounds],
        f"targeted       least-likely class reached for {e.targeted} "
        f"of a sample of {e.targeted.total:,}",
        f"checks         {_counts(e)}",
        *[f"  {c.verdict:<5}{c.id:<4}{c.name}: {c.message}" for c in noted],
    ]


def seed_lines(seeds: Mapping[int, Evaluation]) -> list[str]:
    """The same of a run of several seeds: a line for each, and their mean."""
    return [
        *[line for e in seeds.values() for line in _warnings(e)],
        *[
            f"{f'seed {seed}':<15}robust {e.robust}, clean {e.clean}: {e.verdict}"
            for seed, e in seeds.items()
        ],
        f"mean           {_mean(seeds)}",
    ]


def _mean(seeds):
    return ", ".join(
        f"{name} {spread([getattr(e, name).value for e in seeds.values()])}"
        for name in ("robust", "clean")
    )


def _warnings(e):
    return warnings(e.clean.total, len(e.not_finite), len(e.not_attacked))


def warnings(count: int, not_finite: int, not_attacked: int) -> list[str]:
    """What comes first where there are outputs or gradients that are not finite."""
    of, found = f"of {count:,} images", []
    if not_finite:
        found.append(
            f"NOT FINITE     the outputs for {not_finite:,} {of}: there the network is "
            "neither accurate nor robust"
        )
    if not_attacked:
        found.append(
            f"NOT ATTACKED   {not_attacked:,} {of}: their gradient is NaN, so "
            "that no attack can follow it; they do not count as robust"
        )
    return found


def _counts(e):
    found = [c.verdict for c in e.checks]
    return ", ".join(
        f"{found.count(v)} {v}" for v in ("pass", "warn", "fail", "skip") if v in found
    )


def page(
    e: Evaluation, title: str, seeds: Mapping[int, Evaluation] | None = None
) -> str:
    """The evaluation in Markdown; of several `seeds`, all in brief and `e` whole."""
    believable = all(one.believable for one in (seeds or {0: e}).values())
    head, *rows, last = ([escaped(cell) for cell in row] for row in attack_rows(e))
    last[0], last[3] = f"**{last[0]}**", f"**{last[3]}**"
    return document([
        f"# {escaped(title)}: {'believable' if believable else 'DO NOT BELIEVE'}",
        *(_seeds(seeds) if seeds else ()),
        *_warnings(e),
        f"**{escaped(e.verdict)}**",
        f"Threat model: {e.threat}. Level `{e.level}`, {e.seconds:.0f} s. Intervals "
        "are Wilson's at 95%.",
        "## Attacks",
        table(head, [*rows, last]),
        f"Targeted (least-likely class, PGD): reached for {e.targeted} of a stratified "
        f"sample of {e.targeted.total:,}; counted apart from the untargeted attacks.",
        "![Accuracy over the budget](curve.png)",
        "![The worst examples found](examples.png)",
        "## Checks",
        table(CHECK_HEAD, map(_check_row, e.checks)),
        "## Gradients of every layer, from the output back",
        "Of the margin loss; saturated: elements whose gradient shrinks a "
        "thousandfold.",
        table(LAYER_HEAD, map(_layer_row, e.layers)),
    ])  # fmt: skip


def _seeds(seeds):
    rows = [
        (str(seed), str(e.robust), str(e.clean), escaped(e.verdict))
        for seed, e in seeds.items()
    ]
    first = next(iter(seeds))
    return (
        "## Seeds",
        table(("seed", "robust", "clean", "verdict"), rows),
        f"Mean: {_mean(seeds)}. Below, and in the pictures of images: seed {first}.",
    )


def attack_rows(e: Evaluation) -> list[tuple[str, str, str, str]]:
    """A head, then the clean images, each attack, the worst case."""
    n = e.clean.total
    return [
        ("attack", "tried on", "broke", "leaves right alone"),
        ("none", f"{n:,}", f"{n - e.clean.count:,}", f"{e.clean} of all"),
        *[
            (r.name, f"{r.tried:,}", f"{r.broken:,}", f"{r.alone} of {r.alone.total:,}")
            for r in e.rounds
        ],
        (
            "worst case per image", f"{n:,}", f"{n - e.robust.count:,}",
            f"{e.robust} of all",
        ),
    ]  # fmt: skip


CHECK_HEAD = ("", "check", "verdict", "what was measured", "images")
LAYER_HEAD = (
    "layer", "gradient out / in", "images given none", "images passed none",
    "saturated",
)  # fmt: skip


def _check_row(c):
    images = ", ".join(map(str, c.images[:8])) + (" ..." if c.images[8:] else "")
    return c.id, escaped(c.name), f"**{c.verdict}**", escaped(c.message), images


def _layer_row(layer):
    flat = "" if layer.saturated is None else f"{100 * layer.saturated:.1f}%"
    return (
        escaped(layer.label), f"{layer.ratio:.3g}", f"{100 * layer.zero_in:.1f}%",
        f"{100 * layer.zero_out:.1f}%", flat,
    )  # fmt: skip


def write(
    folder: str | Path, e: Evaluation, x: Any, y: Any, outputs: Any, title: str,
    transfer: Transfer | None = None, record: dict[str, Any] | None = None,
    seeds: Mapping[int, Evaluation] | None = None,
    names: Sequence[str] = (),
) -> Path:  # fmt: skip
    """Write `robustness.json`, `report.md`, `curve.png` and `examples.png`.

    Args:
      folder: made if it is not there.
      e: the evaluation.
      x: the images that were evaluated, float in [0, 1].
      y: their labels.
      outputs: function from images to probabilities (B, N).
      title: heading of the page.
      transfer: who fools whom, for `transfer.png`; None leaves it out.
      record: more for the JSON: command, versions.
      seeds: of a run of several seeds the evaluation of each, `e` being the first.
      names: of the classes, where they are not their numbers.

    Returns:
      The page's path.
    """
    from jaxnn import plots
    from jaxnn.plots import robustness as pictures

    folder, rows = Path(folder), e.sample
    found, text = to_json(e) | (record or {}), page(e, title, seeds)
    if seeds:
        found["seeds"] = [{"seed": seed} | to_json(one) for seed, one in seeds.items()]
    curves = [one.curve for one in (seeds or {0: e}).values()]
    made = {
        "curve.png": lambda path: pictures.curve(
            e.epsilons, {name: [c[name] for c in curves] for name in e.curve},
            len(rows), path,
            budget=e.threat.epsilon, norm=e.threat.norm,
        ),
        "examples.png": lambda path: plots.adversarial(
            x[rows], e.x_adv[rows], y[rows], outputs(x[rows]), outputs(e.x_adv[rows]),
            e.threat.epsilon, path,
            count=10, norm=e.threat.norm, attack="The suite", names=names,
        ),
    }  # fmt: skip
    if transfer is not None:
        names, matrix = list(transfer.names), transfer.matrix
        found["transfer"] = {"names": names, "matrix": matrix.tolist()}
        made["transfer.png"] = lambda path: pictures.transfer(matrix, names, path)
        text += "\n## Transfer\n\n![Who fools whom](transfer.png)\n"
    write_json(folder / "robustness.json", found)
    for name, why in draw(folder, made).items():
        text += f"\nNot drawn: {name}, {escaped(why)}\n"
    write_text(folder / "report.md", text)
    return folder / "report.md"
