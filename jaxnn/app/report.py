"""The page about a training run: `report.md`, from what `result.json` holds.

Each section is a function from the result to its lines. A value that is missing or None
is said to be not measured: a page that leaves things out looks like one that is whole.
"""

import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxnn.files import write_text
from jaxnn.markdown import code, escaped, fenced, table

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
    accuracies = _numbers(result.get("test_accuracy"))
    count = result.get("n")
    accuracy = _accuracy(result.get("mean"), result.get("std"), count)
    problems = [
        line
        for p in result.get("problems") or ()
        for line in (f"**{escaped(p)}.**", "")
    ]
    lines = [
        "# Failed" if problems else f"# Test accuracy {accuracy}",
        "",
        *problems,
        f"Measured once, on {_all_images(result)}, with the parameters of the epoch "
        "that the table names.",
    ]
    if len(accuracies) > 1:
        each = ", ".join(_percent(a) for a in accuracies)
        lines += ["", f"Seed by seed: {each}. The spread is one standard deviation."]
    return [
        *lines,
        "",
        *table(
            ("fact", "value"),
            [
                ("epochs trained", _text(result.get("epochs"))),
                (_epoch_name(result), _text(result.get("best_epoch"))),
                ("why training ended", _text(result.get("stopped"))),
                ("parameters", _text(result.get("parameters"), "{:,}")),
                (
                    "steps skipped (loss or gradient not finite)",
                    _text(result.get("steps_skipped"), "{:,}"),
                ),
            ],
        ),
    ]


def _epoch_name(result) -> str:
    """How the parameters were chosen, as far as the configuration says."""
    config = _part(result, "config")
    validation = config.get("validation")
    if config.get("keep") == "last" and validation:
        return "epoch of the parameters (the last, as asked)"
    if validation is None:
        return "epoch of the parameters"
    how = "the best by validation" if validation else "the last, without validation"
    return f"epoch of the parameters ({how})"


def _pictures(folder, result) -> list[str]:
    seeds, lines = result.get("n"), []
    for name, why in _part(result, "not_drawn").items():
        lines += ["", f"{name} could not be drawn: {_text(why)}"]
    for name, caption in PICTURES.items():
        if os.path.exists(folder / name):
            if (seeds or 1) > 1 and name != "curves.png":
                caption = f"{caption} Of several seeds, the first."
            lines += ["", f"![{caption}]({name})", "", f"*{caption}*"]
    return ["## Pictures", *lines] if lines else []


def _network(result) -> list[str]:
    summary = result.get("summary")
    body = fenced(str(summary)) if summary else [f"{MISSING}."]
    return ["## Network", "", *body]


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
            _text(_worst(gradients, name)),
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


def _worst(gradients, dtype):
    """The array that differs most; looked up among all where it is not named."""
    leaves = [c for c in gradients.get("leaves") or () if c["dtype"] == dtype]
    named = gradients.get(f"{dtype}_worst")
    if named is not None or not leaves:
        return named
    # a difference that is not finite, null in JSON, is the worst there is
    return max(leaves, key=lambda c: _or_inf(c["max_relative"]))["leaf"]


def _or_inf(value) -> float:
    return value if _finite(value) else math.inf


def _adversarial(result) -> list[str]:
    found = _part(result, "adversarial")
    rows = []
    for name, accuracy in found.items():
        match = _ATTACK.fullmatch(name)
        if match:
            kind, steps, epsilon = match.groups()
            label = kind.upper().replace("_", " ") + (
                f", {steps} steps" if steps else ""
            )
            rows.append((label, epsilon, _sample(found), _spread(accuracy)))
    if rows and "worst" in found:
        budget = _text(found.get("epsilon"))
        worst = _spread(found["worst"])
        rows.append(("worst case per image", budget, _sample(found), worst))
    title = ["## Under attack", ""]
    if not rows:
        return [*title, f"Accuracy under attack was {MISSING}."]
    clean = _accuracy(result.get("mean"), result.get("std"), result.get("n"))
    return [
        *title,
        *table(
            ("attack", "epsilon", "images", "accuracy"),
            [("none", "0", _all_images(result), clean), *rows],
        ),
        "",
        "Threat model: the attacker knows the network and its parameters and may move "
        f"each image by at most {_text(found.get('epsilon'))} in the "
        f"{_norm(found.get('norm'))} norm, in units where a pixel goes from 0 to 1, "
        "without leaving that range. The aim is any wrong class. "
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


def _norm(name) -> str:
    name = _text(name)
    return "Linf (largest change of a pixel)" if name.lower() == "linf" else name


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
    names = dict.fromkeys([*known, *versions])
    rows = [
        ("device", _text(result.get("device"))),
        ("git", _text(result.get("git"))),
        *((escaped(name), _text(versions.get(name))) for name in names),
    ]
    return ["## Made with", "", *table(("fact", "value"), rows)]


def _config(config) -> list[str]:
    title = ["## Configuration", ""]
    if not config:
        return [*title, f"{MISSING}."]
    rows = [(code(name), _text(value, none="none")) for name, value in config.items()]
    return [*title, *table(("setting", "value"), rows)]


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


def _numbers(value) -> list:
    value = _plain(value)
    if value is None:
        return []
    return list(value) if isinstance(value, Iterable) else [value]


def _plain(value):
    """NumPy's numbers and arrays as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def _finite(value) -> bool:
    return value is not None and math.isfinite(value)


def _percent(share) -> str:
    return f"{100 * share:.2f}%" if _finite(share) else MISSING


def _accuracy(mean, std, count) -> str:
    """'98.12% +- 0.08 (5 seeds)', the standard deviation in percentage points."""
    if not _finite(mean):
        return MISSING
    if count == 1:
        return f"{_percent(mean)} (1 seed, so no spread)"
    spread = f"{100 * std:.2f}" if _finite(std) else MISSING
    seeds = f"number of seeds {MISSING}" if count is None else f"{count} seeds"
    return f"{_percent(mean)} +- {spread} ({seeds})"


def _spread(value) -> str:
    """An accuracy, or several, one a seed, as mean and standard deviation."""
    shares = _numbers(value)
    if not shares or not all(map(_finite, shares)):
        return MISSING
    mean = sum(shares) / len(shares)
    if len(shares) == 1:
        return _percent(mean)
    variance = sum((a - mean) ** 2 for a in shares) / (len(shares) - 1)
    return _accuracy(mean, math.sqrt(variance), len(shares))


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
