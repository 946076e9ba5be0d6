"""The page about a training run: `report.md`, from what `result.json` holds.

Each section is a function from the result to its lines. A value that is missing or None
is said to be not measured: a page that leaves things out looks like one that is whole.
"""

import math
import os
import re
import shlex
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnn.files import write_text
from jaxnn.text import code, escaped, fenced, table

MISSING = "not measured"
PICTURES = {  # file in the run's folder -> what it shows
    "curves.png": "Loss, validation accuracy and gradient norm over the epochs.",
    "confusion.png": "Which class was taken for which, on the test images.",
    "mistakes.png": "The mistakes of highest loss on the test images.",
    "adversarial.png": "Test images before and after an attack, and the change.",
}
# 'pgd40_0.1': attack, steps where it has a number of them, epsilon
_ATTACK = re.compile(r"([a-z][a-z_]*?)_?(\d*)_(\d*\.?\d+(?:e-?\d+)?)")


def write_report(folder: str | Path, result: Mapping[str, Any]) -> Path:
    """Write `report.md` in the folder of a run, whole or not at all.

    Args:
      folder: the run's folder; the pictures in it (`PICTURES`) are shown.
      result: what `result.json` holds. Accuracies are shares in [0, 1].

    Returns:
      The path of the page.

    Raises:
      JaxnnError: the file cannot be written.
    """
    folder = Path(folder)
    sections = (
        _headline(result),
        _pictures(folder, result),
        _network(result),
        _guard(_part(result, "guard")),
        _gradients(_part(result, "gradients")),
        _adversarial(result),
        _seconds(_part(result, "seconds")),
        _surroundings(result),
        _config(_part(result, "config")),
        _commands(folder),
    )
    path = folder / "report.md"
    write_text(
        path, "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"
    )
    return path


def _headline(result) -> list[str]:
    accuracies = _plain(result.get("test_accuracy")) or []
    problems = []
    for problem in result.get("problems") or ():
        problems += [f"**{escaped(problem)}.**", ""]
    lines = [
        "# Failed" if problems else f"# Test accuracy {_spread(accuracies, True)}",
        "",
        *problems,
        f"Measured once, on {_all_images(result)}, with the parameters of the epoch "
        "that the table names.",
    ]
    if len(accuracies) > 1:
        each = ", ".join(_text(a, "{:.2%}") for a in accuracies)
        lines += ["", f"Seed by seed: {each}. The spread is one standard deviation."]
    rows = [
        ("epochs trained", _text(result.get("epochs"))),
        (_epoch_name(_part(result, "config")), _text(result.get("best_epoch"))),
        ("why training ended", _text(result.get("stopped"))),
        ("parameters", _text(result.get("parameters"), "{:,}")),
        (
            "steps skipped (loss or gradient not finite)",
            _text(result.get("steps_skipped"), "{:,}"),
        ),
    ]
    return [*lines, "", *table(("fact", "value"), rows)]


def _epoch_name(config) -> str:
    """How the parameters were chosen, as far as the configuration says."""
    validation = config.get("validation")
    if config.get("keep") == "last" and validation:
        return "epoch of the parameters (the last, as asked)"
    if validation is None:
        return "epoch of the parameters"
    how = "the best by validation" if validation else "the last, without validation"
    return f"epoch of the parameters ({how})"


def _pictures(folder, result) -> list[str]:
    lines = []
    for name, why in _part(result, "not_drawn").items():
        lines += ["", f"{name} could not be drawn: {_text(why)}"]
    for name, caption in PICTURES.items():
        if os.path.exists(folder / name):
            if (result.get("n") or 1) > 1 and name != "curves.png":
                caption = f"{caption} Of several seeds, the first."
            lines += ["", f"![{caption}]({name})", "", f"*{caption}*"]
    return ["## Pictures", *lines] if lines else []


def _network(result) -> list[str]:
    summary = result.get("summary")
    return ["## Network", "", *(fenced(summary) if summary else [f"{MISSING}."])]


def _guard(guard) -> list[str]:
    """What the guard located; nothing where it had nothing to say."""
    found = guard.get("report")
    if not found:
        return []
    policy = _text(guard.get("policy"))
    return ["## Guard", "", f"Policy: {policy}.", "", *fenced("\n".join(found))]


def _gradients(gradients) -> list[str]:
    verdict = {
        True: "**They agree.**",
        False: "**They do not agree: do not trust this run.**",
    }.get(gradients.get("passed"), f"Whether they agree was {MISSING}.")
    if lost := gradients.get("not_finite"):
        verdict = f"**Not finite, so neither right nor wrong:** {escaped(lost)}."
    rows = [
        (
            name,
            _text(gradients.get(f"{name}_max_relative"), "{:.1e}"),
            _text(_worst(gradients.get("leaves") or (), name)),
        )
        for name in ("float32", "float64")
    ]
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
    """The array that differs most; null in JSON is a difference that is not finite."""

    def size(leaf):
        value = leaf["max_relative"]
        return value if value is not None and math.isfinite(value) else math.inf

    mine = [leaf for leaf in leaves if leaf["dtype"] == dtype]
    return max(mine, key=size)["leaf"] if mine else None


def _adversarial(result) -> list[str]:
    found = _part(result, "adversarial")
    rows = []
    for name, accuracy in found.items():
        if match := _ATTACK.fullmatch(name):
            kind, steps, epsilon = match.groups()
            label = kind.upper().replace("_", " ") + f", {steps} steps" * bool(steps)
            rows.append((label, epsilon, _sample(found), _spread(accuracy)))
    title = ["## Under attack", ""]
    if not rows:
        return [*title, f"Accuracy under attack was {MISSING}."]
    epsilon, norm = _text(found.get("epsilon")), _text(found.get("norm"))
    norm = "Linf (largest change of a pixel)" if norm == "linf" else norm
    if "worst" in found:
        worst = _spread(found["worst"])
        rows.append(("worst case per image", epsilon, _sample(found), worst))
    clean = _spread(result.get("test_accuracy"), True)
    return [
        *title,
        *table(
            ("attack", "epsilon", "images", "accuracy"),
            [("none", "0", _all_images(result), clean), *rows],
        ),
        "",
        "Threat model: the attacker knows the network and its parameters and may move "
        f"each image by at most {epsilon} in the {norm} norm, in units where a pixel "
        "goes from 0 to 1, without leaving that range. The aim is any wrong class. "
        f"PGD takes {_text(found.get('steps'))} steps of "
        f"{_text(found.get('step_size'))}; FGSM takes one step of the whole budget. "
        "Accuracy under these attacks is an upper bound on robustness: a stronger "
        "attack may fool the network more often."
        + (f" {escaped(note)}." if isinstance(note := found.get("note"), str) else ""),
    ]


def _all_images(result) -> str:
    count = result.get("test_images")
    if count is None:
        return f"test images whose number was {MISSING}"
    return f"all {_text(count, '{:,}')} test images"


def _sample(found) -> str:
    images, sample = found.get("images"), found.get("sample")
    if sample == "all":
        return _all_images({"test_images": images})
    how = "" if sample else f" (how chosen: {MISSING})"
    return f"{_text(sample or 'sample')} of {_text(images, '{:,}')}{how}"


def _seconds(seconds) -> list[str]:
    names = {
        "import": "importing JAX and jaxnn",
        "compile": "compiling",
        "train": "training, validation included",
        "total": "the whole command",
    }
    others = {k: escaped(k.replace("_", " ")) for k in seconds if k not in names}
    rows = [
        (what, _text(seconds.get(k), "{:.2f}")) for k, what in (names | others).items()
    ]
    return ["## Time", "", *table(("part", "seconds"), rows)]


def _surroundings(result) -> list[str]:
    versions = _part(result, "versions")
    known = ("jaxnn", "python", "jax", "jaxlib", "numpy", "optax")
    rows = [
        ("device", _text(result.get("device"))),
        ("git", _text(result.get("git"))),
        *(
            (escaped(name), _text(versions.get(name)))
            for name in dict.fromkeys([*known, *versions])
        ),
    ]
    return ["## Made with", "", *table(("fact", "value"), rows)]


def _config(config) -> list[str]:
    rows = [(code(name), _text(value, none="none")) for name, value in config.items()]
    lines = table(("setting", "value"), rows) if config else [f"{MISSING}."]
    return ["## Configuration", "", *lines]


def _commands(folder) -> list[str]:
    run = shlex.quote(str(folder))
    lines = (
        f"jaxnn eval {run}                # test accuracy again, from the saved run",
        f"jaxnn predict {run} IMAGE.png   # which class is this picture?",
    )
    return ["## Go on from here", "", *fenced("\n".join(lines), "sh")]


def _part(result, name) -> Mapping[str, Any]:
    """A group of the result; an empty one if it is missing or None."""
    return result.get(name) or {}


def _plain(value):
    """NumPy's numbers and arrays as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def _spread(value, alone: bool = False) -> str:
    """Shares, one a seed: "98.12% +- 0.08 (5 seeds)", in percentage points.

    Of one seed there is no spread, which is said of it if it stands `alone`.
    """
    value = _plain(value)
    shares = value if isinstance(value, list | tuple) else [value]
    if not shares or not all(a is not None and math.isfinite(a) for a in shares):
        return MISSING
    mean = f"{sum(shares) / len(shares):.2%}"
    if len(shares) == 1:
        return f"{mean} (1 seed, so no spread)" if alone else mean
    return f"{mean} +- {100 * statistics.stdev(shares):.2f} ({len(shares)} seeds)"


def _text(value, form: str = "{}", none: str = MISSING) -> str:
    """Any value in one line of Markdown; numbers by `form`, commas between entries."""
    value = _plain(value)
    if value is None:
        return none
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return form.format(value) if math.isfinite(value) else "not finite"
    if isinstance(value, Mapping):
        return ", ".join(
            f"{escaped(str(k))} {_text(v, form, none)}" for k, v in value.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(_text(v, form, none) for v in value) or "none"
    return escaped(str(value))
