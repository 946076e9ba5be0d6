"""The page about a training run: `report.md`, from what `result.json` holds.

Each section is a function from the result to its lines. What was not measured is said
to be so: a page that leaves things out looks like one that is whole.
"""

import math
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnn.files import write_text
from jaxnn.text import code, document, escaped, fenced, spread, table

PICTURES = {  # file in the run's folder -> what it shows
    "curves.png": "Loss, validation accuracy and gradient norm over the epochs.",
    "confusion.png": "Which class was taken for which, on the test images.",
    "mistakes.png": "The mistakes of highest loss on the test images.",
    "adversarial.png": "Test images before and after an attack, and the change.",
}
TIMES = {
    "import": "importing JAX and jaxnn",
    "compile": "compiling",
    "train": "training, validation included",
    "total": "the whole command",
}
# 'pgd40_0.1': attack, steps where it has a number of them, epsilon
_ATTACK = re.compile(r"([a-z][a-z_]*?)_?(\d*)_(\d*\.?\d+(?:e-?\d+)?)")


def write_report(folder: str | Path, result: Mapping[str, Any]) -> Path:
    """Write `report.md` in the folder of a run, whole or not at all; returns its path.

    Args:
      folder: the run's folder; the pictures in it (`PICTURES`) are shown.
      result: what `result.json` holds. Accuracies are shares in [0, 1].
    """
    folder, r = Path(folder), result
    run = shlex.quote(str(folder))
    commands = (
        f"jaxnn eval {run}                # test accuracy again, from the saved run\n"
        f"jaxnn predict {run} IMAGE.png   # which class is this picture?"
    )
    names = dict.fromkeys(("jaxnn", "python", "jax", "jaxlib", "numpy", "optax"))
    made_with = [("device", _text(r["device"])), ("git", _text(r["git"]))]
    made_with += [(escaped(n), _text(r["versions"][n])) for n in names | r["versions"]]
    settings = [(code(k), _text(v, none="none")) for k, v in r["config"].items()]
    parts = TIMES | {k: k.replace("_", " ") for k in r["seconds"] if k not in TIMES}
    times = [(escaped(name), f"{r['seconds'][k]:.2f}") for k, name in parts.items()]
    sections = [
        _headline(r),
        _pictures(folder, r),
        ["## Network", "", *fenced(r["summary"])],
        _guard(r["guard"]),
        _gradients(r["gradients"] or {}),
        _adversarial(r),
        _table("## Time", ("part", "seconds"), times),
        _table("## Made with", ("fact", "value"), made_with),
        _table("## Configuration", ("setting", "value"), settings),
        ["## Go on from here", "", *fenced(commands, "sh")],
    ]
    write_text(folder / "report.md", document(sections))
    return folder / "report.md"


def _table(title, head, rows) -> list[str]:
    return [title, "", *table(head, rows)]


def _headline(r) -> list[str]:
    accuracies = r["test_accuracy"]
    accuracy = f"# Test accuracy {_spread_or_none(r)}"
    lines = ["# Failed" if r["problems"] else accuracy, ""]
    for problem in r["problems"]:
        lines += [f"**{escaped(problem)}.**", ""]
    lines.append(
        f"Measured once, on {_all_images(r)}, with the parameters of the epoch that "
        "the table names."
    )
    if len(accuracies) > 1:
        each = _text(accuracies, "{:.2%}")
        lines += ["", f"Seed by seed: {each}. The spread is one standard deviation."]
    last = "the last, as asked" if r["config"]["validation"] else (
        "the last, without validation"
    )  # fmt: skip
    how = "the best by validation" if r["config"]["keep"] == "best" else last
    names = r["network"].get("names")
    rows = [("classes", _text(names))] if names else []
    rows += [
        ("epochs trained", _text(r["epochs"])),
        (f"epoch of the parameters ({how})", _text(r["best_epoch"])),
        ("why training ended", _text(r["stopped"])),
        ("parameters", _text(r["parameters"], "{:,}")),
        ("steps skipped (loss or gradient not finite)",
         _text(r["steps_skipped"], "{:,}")),
    ]  # fmt: skip
    return [*lines, "", *table(("fact", "value"), rows)]


def _pictures(folder, r) -> list[str]:
    lines = []
    for name, why in r["not_drawn"].items():
        lines += ["", f"{name} could not be drawn: {_text(why)}"]
    for name, caption in PICTURES.items():
        if os.path.exists(folder / name):
            if r["n"] > 1 and name != "curves.png":
                caption = f"{caption} Of several seeds, the first."
            lines += ["", f"![{caption}]({name})", "", f"*{caption}*"]
    return ["## Pictures", *lines] if lines else []


def _guard(guard) -> list[str]:
    """What the guard located; nothing where it had nothing to say."""
    if not guard["report"]:
        return []
    report = fenced("\n".join(guard["report"]))
    return ["## Guard", "", f"Policy: {_text(guard['policy'])}.", "", *report]


def _gradients(gradients) -> list[str]:
    verdict = {
        True: "**They agree.**",
        False: "**They do not agree: do not trust this run.**",
        None: "Whether they agree was not measured.",
    }[gradients.get("passed")]
    if lost := gradients.get("not_finite"):
        verdict = f"**Not finite, so neither right nor wrong:** {escaped(lost)}."
    rows = [
        (name, _text(gradients.get(f"{name}_max_relative"), "{:.1e}"),
         _text(_worst(gradients.get("leaves", ()), name)))
        for name in ("float32", "float64")
    ]  # fmt: skip
    return [
        "## Gradients",
        "",
        f"{verdict} The backward pass, written by hand, is compared with `jax.grad` on "
        "this network: float32 carries about 7 digits and float64 about 16, so right "
        "derivatives differ only by rounding, far less in float64, while a wrong one "
        "differs as much in both.",
        "",
        *table(("precision", "largest relative difference", "where"), rows),
    ]


def _worst(leaves, dtype):
    """The array that differs most; a difference that is not finite is the worst."""
    sizes = {
        leaf["leaf"]: value if value is not None and math.isfinite(value) else math.inf
        for leaf in leaves if leaf["dtype"] == dtype
        for value in [leaf["max_relative"]]
    }  # fmt: skip
    return max(sizes, key=lambda name: sizes[name], default=None)


def _adversarial(r) -> list[str]:
    found = r["adversarial"]
    if not found:
        return ["## Under attack", "", "Accuracy under attack was not measured."]
    epsilon, whole = _text(found["epsilon"]), found["sample"] == "all"
    images = f"{escaped(found['sample'])} of {found['images']:,}"
    images = _all_images(r) if whole else images
    rows = [("none", "0", _all_images(r), _spread_or_none(r))]
    for name, accuracy in found.items():
        if match := _ATTACK.fullmatch(name):
            kind, steps, size = match.groups()
            label = kind.upper().replace("_", " ") + f", {steps} steps" * bool(steps)
            rows.append((label, size, images, spread(accuracy)))
    rows.append(("worst case per image", epsilon, images, spread(found["worst"])))
    return [
        "## Under attack",
        "",
        *table(("attack", "epsilon", "images", "accuracy"), rows),
        "",
        "Threat model: the attacker knows the network and its parameters and may move "
        f"each image by at most {epsilon} in the Linf (largest change of a pixel) "
        "norm, in units where a pixel goes from 0 to 1, without leaving that range. "
        f"The aim is any wrong class. PGD takes {_text(found['steps'])} steps of "
        f"{_text(found['step_size'])}; FGSM takes one step of the whole budget. "
        "Accuracy under these attacks is an upper bound on robustness: a stronger "
        "attack may fool the network more often."
        + (f" {escaped(found['note'])}." if found["note"] else ""),
    ]


def _all_images(r) -> str:
    return f"all {r['test_images']:,} test images"


def _spread_or_none(r) -> str:
    """The test accuracy; of one seed it is said that there is no spread."""
    return spread(r["test_accuracy"]) + " (1 seed, so no spread)" * (r["n"] == 1)


def _text(value, form: str = "{}", none: str = "not measured") -> str:
    """Any value in one line of Markdown; numbers by `form`, commas between entries."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if value is None:
        return none
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return form.format(value) if math.isfinite(value) else "not finite"
    if isinstance(value, list | tuple):
        return ", ".join(_text(v, form, none) for v in value) or "none"
    return escaped(str(value))
