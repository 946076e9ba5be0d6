"""A comparison in words: the table for the terminal, and gradients.md."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnn.files import write_text
from jaxnn.text import escaped, table

PICTURES = {
    "errors.png": "Error of each layer's derivative by each method.",
    "scatter.png": "Each entry of the gradient, by hand and by jax.grad.",
    "steps.png": "Finite differences: error against step size.",
    "taylor.png": "Taylor remainders: slope 2 if the gradient is right.",
}
WORDS = {
    "manual": "by hand",
    "forward": "forward AD",
    "complex_step": "complex step",
    "central": "central diff",
}


def methods_table(result: Mapping[str, Any]) -> str:
    """Layers down, methods across: errors against reverse mode in float64."""
    rows, policy = result["methods"], result["policy"]
    width = max([len(row["layer"]) for row in rows] + [5])
    head = f"{'layer':<{width}}" + "".join(f"{WORDS[way]:>14}" for way in policy)
    lines = [head]
    for row in rows:
        cells = "".join(f"{_error(row, way):>14}" for way in policy)
        notes = [f"{row['kinks']} kinks"] * bool(row["kinks"]) + [row["note"]]
        note = "; ".join(filter(None, notes))
        lines.append(
            f"{row['layer']:<{width}}{cells}" + (f"  ({note})" if note else "")
        )
    limits = "".join(f"{limit:>14.0e}" for limit in policy.values())
    return "\n".join([*lines, f"{'policy':<{width}}{limits}"])


def facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The other measurements, a name and a sentence each."""
    found = []
    if "steps" in result:
        steps = result["steps"]["steps"]
        central = result["steps"]["errors"]["central, float64"]
        best = min(range(len(steps)), key=lambda i: central[i])
        found.append(
            (
                "difference",
                f"central difference of the whole network at its best step "
                f"{steps[best]:.0e}: {central[best]:.1e} (policy 1e-07)",
            )
        )
    if "taylor" in result:
        taylor = result["taylor"]
        found.append(
            (
                "Taylor",
                f"slope {taylor['slope']:.2f} by hand (policy 1.9); "
                f"{taylor['wrong_slope']:.2f} for a gradient that is 1% off",
            )
        )
        bend = result["curvature"]
        found.append(
            (
                "second order",
                "Hessian times vector, through the backward pass: "
                f"{bend['hessian_vector_error']:.1e} from jax's; largest eigenvalue "
                f"{bend['largest_eigenvalue']:.4g} (residual {bend['residual']:.0e} "
                f"after {bend['products']} products)",
            )
        )
        found += [(_way(name), _cost(cost)) for name, cost in result["costs"].items()]
    kinks = result["gradients"]["kinks"]
    if kinks:
        each = ", ".join(f"{layer}: {count}" for layer, count in kinks.items())
        found.append(("kinks", f"entries at a kink of the derivative: {each}"))
    other = result.get("evaluation")
    if other:
        verdict = "agrees too" if other["passed"] else "DIFFERS"
        found.append(("evaluation", f"the program of evaluation {verdict}"))
    return found


def verdict(result: Mapping[str, Any]) -> str:
    """What was found, in one line, the findings behind it."""
    findings = _all_findings(result)
    if result["passed"]:
        count = len({c["leaf"] for c in result["gradients"]["leaves"]})
        return f"they agree, in all {count} arrays and in every layer alone"
    if lost := _not_finite(result):
        return f"NOT FINITE, so neither right nor wrong: {lost}"
    if not findings:
        return "THEY DIFFER, though every layer agrees on its own: see the table"
    return "\n".join(["THEY DIFFER", *(f"  {f['line']}" for f in findings)])


def write_page(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write gradients.md: verdict, findings, tables and pictures."""
    gradients = result["gradients"]
    sections = [
        f"# {escaped(_heading(result))}",
        f"Hand-written gradients against `jax.grad`: {escaped(result['title'])}.",
    ]
    findings = _all_findings(result)
    if findings:
        sections.append("## What is wrong")
        sections.append(
            "Each layer was fed the exact cotangent from above, so that an error is "
            "blamed on the layer that makes it and on none before it."
        )
        sections.append("\n".join(f"- {escaped(f['line'])}" for f in findings))
    sections += ["## Leaf by leaf", _leaves(gradients["leaves"])]
    if result.get("methods"):
        sections += ["## Layer by layer, by every method", _methods(result)]
    if facts(result):
        rows = [[name, sentence] for name, sentence in facts(result)]
        sections += ["## Measured", _markdown(["what", "result"], rows)]
    for name, caption in PICTURES.items():
        if os.path.exists(folder / name):
            sections.append(f"![{caption}]({name})\n\n*{caption}*")
    made = [["device", result["device"]], ["git", str(result["git"])]]
    made += [[name, version] for name, version in result["versions"].items()]
    sections += ["## Made with", _markdown(["what", "version"], made)]
    path = folder / "gradients.md"
    write_text(path, "\n\n".join(sections) + "\n")
    return path


def _heading(result) -> str:
    if result["passed"]:
        return "They agree"
    if lost := _not_finite(result):
        return f"Not finite, so neither right nor wrong: {lost}"
    return "They do not agree"


def _not_finite(result) -> str:
    """What is not finite where nothing else is wrong, "" if there is nothing."""
    other = result.get("evaluation") or {"not_finite": ""}
    lost = result["gradients"]["not_finite"] or other["not_finite"]
    return "" if _all_findings(result) else lost


def _all_findings(result) -> list[Mapping[str, Any]]:
    other = result.get("evaluation") or {"findings": []}
    return [*result["gradients"]["findings"], *other["findings"]]


def _leaves(leaves) -> str:
    head = ["leaf", "shape", "dtype", "max abs", "relative", "max ulp", "within 4 ulp",
            "cosine", "other sign", "verdict"]  # fmt: skip
    rows = []
    for c in leaves:
        shape = "x".join(map(str, c["shape"])) or "()"
        verdict = "ok" if c["passed"] else f"WRONG at {list(c['index'])}"
        note = f" ({c['note']})" if c["note"] else ""
        rows.append([
            c["leaf"], shape, c["dtype"], f"{c['max_abs']:.1e}",
            f"{c['max_relative']:.1e}", f"{c['ulp_max']:.3g}",
            f"{c['ulp_within'][1]:.1%}", f"{c['cosine']:.9f}",
            str(c["sign_disagreements"]), verdict + note,
        ])  # fmt: skip
    return _markdown(head, rows)


def _methods(result) -> str:
    policy = result["policy"]
    rows = [
        [row["layer"], *(_error(row, way) for way in policy), str(row["kinks"]),
         row["note"]]
        for row in result["methods"]
    ]  # fmt: skip
    rows.append(["policy", *(f"{limit:.0e}" for limit in policy.values()), "", ""])
    head = ["layer", *(WORDS[way] for way in policy), "kinks", "note"]
    return _markdown(head, rows)


def _error(row, way) -> str:
    error = row["errors"][way]
    return "-" if error is None else "0" if error == 0 else f"{error:.1e}"


def _way(name) -> str:
    return {"manual": "by hand", "automatic": "by jax.grad"}[name]


def _cost(cost) -> str:
    parts = [f"{1e3 * cost['seconds']:.2f} ms a gradient"]
    parts.append(f"compiled in {cost['compile_seconds']:.2f} s")
    if cost["flops"] is not None:
        parts.append(f"{cost['flops'] / 1e6:,.1f} MFLOP")
    if cost["peak_bytes"] is not None:
        parts.append(f"{cost['peak_bytes'] / 1e6:,.2f} MB at its peak")
    if cost["residual_bytes"] is not None:
        parts.append(f"{cost['residual_bytes'] / 1e6:,.2f} MB kept for the way back")
    return ", ".join(parts)


def _markdown(head, rows) -> str:
    return "\n".join(table(head, [list(map(escaped, row)) for row in rows]))
