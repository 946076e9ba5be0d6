"""What a comparison finds, in words: findings, the table, and gradients.md."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.check.points import AS_CALLED
from jaxnn.check.tolerance import LIMITS, LeafComparison
from jaxnn.files import write_text
from jaxnn.text import Table, aligned, document, escaped, html, table


@dataclass(frozen=True)
class Check:
    """One argument of one layer, at one point and in one precision.

    Attributes:
      layer: such as "2 dense(5)", with its number in the network.
      argument: "x" for the layer's input, else the path of the parameter in the layer;
        "" where it is no gradient that is wrong.
      at: at which point: "as called", "at random inputs" ...
      comparison: the numbers; its `leaf` is the path in the whole network.
    """

    layer: str
    argument: str
    at: str
    comparison: LeafComparison


@dataclass(frozen=True)
class Finding(Check):
    """An error, pinned to one argument of one layer.

    Where several checks fail, it holds the numbers of the first of them.

    Attributes:
      cause: a guess of what is wrong.
      dtypes: the precisions it shows in.
    """

    cause: str
    dtypes: tuple[str, ...]

    def line(self) -> str:
        """The finding in one line."""
        c = self.comparison
        if not self.argument:
            return f"{self.layer}: {c.note}" + (f"; {self.cause}" if self.cause else "")
        if c.note:
            return f"{self.layer}: d{self.argument} ({c.leaf}): {c.note}; {self.cause}"
        where = f" at {list(c.index)}" if c.shape else ""
        size = int(np.prod(c.shape))
        share = f"{c.wrong:,} of {size:,} entries, " if size > 1 else ""
        hidden = "" if self.at == AS_CALLED else f", {self.at} only"
        return (
            f"{self.layer}: d{self.argument} ({c.leaf}) is wrong{where}: "
            f"got {c.manual:.6g}, expected {c.automatic:.6g} "
            f"({share}{', '.join(self.dtypes)}{hidden}); {self.cause}"
        )


@dataclass(frozen=True)
class Audit:
    """What `jaxnn.check.audit.audit` found, each layer judged by itself.

    Attributes:
      checks: every comparison made.
      findings: the errors, pinned to a layer and an argument, those nearest to the
        output first.
      kinks: layer -> entries that lie at a kink of its derivative, where there are any.
      waived: layers that choose another value at a kink than `jax.grad`.
      as_one: combinators that were judged as one layer, since they do not call theirs
        by `jaxnn.combine.Parts`.
    """

    checks: tuple[Check, ...] = ()
    findings: tuple[Finding, ...] = ()
    kinks: dict[str, int] = field(default_factory=dict)
    waived: tuple[str, ...] = ()
    as_one: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, repr=False)
class GradientReport(Audit):
    """What `compare_gradients` found; the audit's part is empty if there was none.

    Attributes:
      leaves: one entry a leaf of the whole gradient and precision.
      error: what the whole backward raised, None if it ran.
      lost: the loss, where it is not finite.
    """

    leaves: tuple[LeafComparison, ...]
    error: str | None = None
    lost: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every leaf passed, and every layer where they were audited."""
        whole = all(leaf.passed for leaf in self.leaves) and not self.lost
        return not self.findings and whole

    @property
    def not_finite(self) -> str:
        """What of the loss and the gradient is not finite both ways; "" if nothing."""
        bad = [c for c in self.leaves if c.not_finite]
        arrays = [
            f"{len({c.leaf for c in bad})} of {self._arrays} arrays, such as {c.leaf} "
            f"({c.dtype}): {c.note}"
            for c in bad[:1]
        ]
        return ", ".join([*self.lost, *arrays])

    @property
    def _arrays(self) -> int:
        return len({c.leaf for c in self.leaves})

    @property
    def worst(self) -> LeafComparison:
        """The leaf furthest beyond, or nearest to, the limit of its precision.

        Where errors were pinned to layers, of those: what lies before them is no fault
        of its own. The input of layer 2 is called "2/x".
        """

        blamed = [f.comparison for f in self.findings]
        return max(
            blamed or self.leaves,
            key=lambda c: (
                bool(blamed) or not c.passed,
                c.max_relative / LIMITS[c.dtype],
            ),
        )

    def max_relative(self, dtype: str) -> float:
        """Largest relative difference over the leaves in that precision.

        Those waived by their note are left out: where a gradient is 0 but for rounding
        (a bias before batch norm) nothing is left to be relative to.
        """
        return max(
            (c.max_relative for c in self.leaves if c.dtype == dtype and not c.waived),
            default=0.0,
        )

    def table(self) -> str:
        """The comparison as text, a line a leaf, failures marked, then the blame."""
        rows = [[*COLUMNS, ""]]
        for c in self.leaves:
            mark = f"({c.note})" if c.note else ""
            if not c.passed:
                at = f" at {list(c.index)}: by hand {c.manual:.6g}, jax.grad "
                mark = f"FAIL: {c.note}" if c.note else f"FAIL{at}{c.automatic:.6g}"
            rows.append([*_cells(asdict(c)), mark])
        lines = [aligned(rows, right=range(3, len(COLUMNS)))]
        lines += [f"the whole backward pass raised {self.error}"] if self.error else []
        lines += [f"BLAME {finding.line()}" for finding in self.findings]
        past = "calls its layers past combine.Parts"
        lines += [f"judged as one layer: {name} {past}" for name in self.as_one]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<GradientReport: {self.line()}>"

    def _repr_html_(self) -> str:
        rows = [_leaf(asdict(c)) for c in self.leaves]
        return html(PAGE_COLUMNS, rows, self.line())

    def line(self) -> str:
        """The comparison in one line."""
        found = ", ".join(
            f"{dtype} {self.max_relative(dtype):.1e}"
            for dtype in dict.fromkeys(c.dtype for c in self.leaves)
        )
        if self.not_finite and not self.findings:
            return f"NOT FINITE, so neither right nor wrong: {self.not_finite}"
        if self.passed:
            count, waived = self._arrays, len({c.leaf for c in self.leaves if c.waived})
            but = f" ({waived} of them but for rounding or kinks)" if waived else ""
            said = f"match: {count} of {count} arrays{but}"
            return f"{said}, largest relative difference: {found}"
        if self.findings:
            more = len(self.findings) - 1
            also = f" (and {more} more)" if more else ""
            return f"DIFFER: {self.findings[0].line()}{also}"
        bad = self.worst
        return (
            f"DIFFER in {bad.leaf} ({bad.dtype}): by hand {bad.manual:.6g}, jax.grad "
            f"{bad.automatic:.6g} at {list(bad.index)}; relative: {found}"
        )

    def to_json(self) -> dict:
        """The report as plain JSON values; infinite and NaN where nothing compares."""
        return {
            "passed": self.passed,
            "not_finite": self.not_finite,
            "worst": asdict(self.worst),
            "error": self.error,
            "findings": [asdict(f) | {"line": f.line()} for f in self.findings],
            "kinks": self.kinks,
            "excused": list(self.waived),
            "leaves": [asdict(c) for c in self.leaves],
            "layers": [asdict(c) for c in self.checks],
        }


# ---- of the result of `jaxnn compare`, which holds such reports as JSON

PICTURES = {
    "errors.png": "Error of each layer's derivative by each method.",
    "scatter.png": "Each entry of the gradient, by hand and by jax.grad.",
    "steps.png": "Finite differences: error against step size.",
    "taylor.png": "Taylor remainders: slope 2 if the gradient is right.",
}
METHODS = {
    "manual": "by hand",
    "forward": "forward AD",
    "complex_step": "complex step",
    "central": "central diff",
}


def methods_table(result: Mapping[str, Any]) -> Table:
    """Layers down, methods across: errors against reverse mode in float64."""

    def text(error):
        return "-" if error is None else "0" if error == 0 else f"{error:.1e}"

    policy = result["policy"]
    rows = [
        ["layer", *(METHODS[way] for way in policy), "kinks", "note"],
        *([row["layer"], *(text(row["errors"][way]) for way in policy),
           str(row["kinks"]), row["note"]] for row in result["methods"]),
        ["policy", *(f"{limit:.0e}" for limit in policy.values()), "", ""],
    ]  # fmt: skip
    return Table.of(rows, right=range(1, len(policy) + 2))


def precision_table(result: Mapping[str, Any]) -> Table:
    """How far the gradients of mixed precision are from those in float32."""
    rows = [[f"gradient in {result['precision']['name']}", "cosine with float32",
             "off by"]]  # fmt: skip
    for e in result["precision"]["errors"]:
        rows.append([e["leaf"], f"{e['cosine']:.6f}", f"{e['relative_norm']:.2%}"])
    return Table.of(rows, right=(1, 2))


def facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The other measurements, a name and a sentence each."""
    found = []
    if "steps" in result:
        central = result["steps"]["errors"]["central, float64"]
        best, step = min(zip(central, result["steps"]["steps"], strict=True))
        said = "central difference of the whole network at its best step"
        found.append(("difference", f"{said} {step:.0e}: {best:.1e} (policy 1e-07)"))
    if "taylor" in result:
        taylor, bend = result["taylor"], result["curvature"]
        said = (
            f"slope {taylor['slope']:.2f} by hand (policy 1.9); "
            f"{taylor['wrong_slope']:.2f} for a gradient that is 1% off"
        )
        found.append(("Taylor", said))
        said = (
            "Hessian times vector, through the backward pass: "
            f"{bend['hessian_vector_error']:.1e} from jax's; largest eigenvalue "
            f"{bend['largest_eigenvalue']:.4g} (residual {bend['residual']:.0e} "
            f"after {bend['products']} products)"
        )
        found.append(("second order", said))
        ways = {"manual": "by hand", "automatic": "by jax.grad"}
        found += [(ways[way], _cost(cost)) for way, cost in result["costs"].items()]
    if kinks := result["gradients"]["kinks"]:
        each = ", ".join(f"{layer}: {count}" for layer, count in kinks.items())
        found.append(("kinks", f"entries at a kink of the derivative: {each}"))
    if other := result.get("evaluation"):
        said = "agrees too" if other["passed"] else "DIFFERS"
        found.append(("evaluation", f"the program of evaluation {said}"))
    return found


def verdict(result: Mapping[str, Any]) -> str:
    """What was found, in one line, the findings behind it."""
    findings, lost = _findings(result)
    if result["passed"]:
        count = len({c["leaf"] for c in result["gradients"]["leaves"]})
        return f"they match: {count} of {count} arrays, and every layer alone"
    if findings:
        return "\n".join(["THEY DIFFER", *(f"  {line}" for line in findings)])
    if lost:
        return f"NOT FINITE, so neither right nor wrong: {lost}"
    return "THEY DIFFER, though every layer agrees on its own: see the table"


def write_page(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write gradients.md: verdict, findings, tables and pictures."""
    findings, lost = _findings(result)
    heading = "They agree" if result["passed"] else "They do not agree"
    if not (result["passed"] or findings) and lost:
        heading = f"Not finite, so neither right nor wrong: {lost}"
    sections = [
        f"# {escaped(heading)}",
        f"Hand-written gradients against `jax.grad`: {escaped(result['title'])}.",
    ]
    if findings:
        sections += [
            "## What is wrong",
            "Each layer was fed the exact cotangent from above, so that an error is "
            "blamed on the layer that makes it and on none before it.",
            "\n".join(f"- {escaped(line)}" for line in findings),
        ]
    made = {"device": result["device"], "git": str(result["git"])} | result["versions"]
    tables = {
        "Leaf by leaf": [PAGE_COLUMNS, *map(_leaf, result["gradients"]["leaves"])],
        "Layer by layer, by every method":
            methods_table(result).rows if result.get("methods") else (),
        "In mixed precision":
            precision_table(result).rows if "precision" in result else (),
        "Measured": [("what", "result"), *facts(result)],
    }  # fmt: skip
    for title, rows in tables.items():
        sections += _table(title, rows)
    for name, caption in PICTURES.items():
        if os.path.exists(folder / name):
            sections.append(f"![{caption}]({name})\n\n*{caption}*")
    sections += _table("Made with", [("what", "version"), *made.items()])
    path = folder / "gradients.md"
    write_text(path, document(sections))
    return path


def _findings(result) -> tuple[list[str], str]:
    """Lines of what is wrong in training or evaluation; what is not finite in one."""
    modes = [result["gradients"], *filter(None, [result.get("evaluation")])]
    lines = [f["line"] for mode in modes for f in mode["findings"]]
    return lines, next((m["not_finite"] for m in modes if m["not_finite"]), "")


COLUMNS = ("leaf", "shape", "dtype", "max abs", "relative", "max ulp", "within 4 ulp",
           "cosine")  # fmt: skip
PAGE_COLUMNS = (*COLUMNS, "other sign", "verdict")


def _cells(c: Mapping[str, Any]) -> list[str]:
    """A comparison, as plain values, in those columns."""
    shape = "x".join(map(str, c["shape"])) or "()"
    return [
        c["leaf"], shape, c["dtype"], f"{c['max_abs']:.1e}", f"{c['max_relative']:.1e}",
        f"{c['ulp_max']:.3g}", f"{c['ulp_within'][1]:.1%}", f"{c['cosine']:.9f}",
    ]  # fmt: skip


def _leaf(c) -> list[str]:
    said = "ok" if c["passed"] else f"WRONG at {list(c['index'])}"
    note = f" ({c['note']})" if c["note"] else ""
    return [*_cells(c), str(c["sign_disagreements"]), said + note]


def _cost(cost) -> str:
    parts = [
        f"{1e3 * cost['seconds']:.2f} ms a gradient",
        f"compiled in {cost['compile_seconds']:.2f} s",
    ]
    for name, form, unit in (
        ("flops", ",.1f", "MFLOP"), ("peak_bytes", ",.2f", "MB at its peak"),
        ("residual_bytes", ",.2f", "MB kept for the way back"),
    ):  # fmt: skip
        if cost[name] is not None:
            parts.append(f"{cost[name] / 1e6:{form}} {unit}")
    return ", ".join(parts)


def _table(title, rows) -> list[str]:
    """A section of the page, its first row the head; none if there are no others."""
    head, *rows = [list(map(escaped, row)) for row in rows] or [[]]
    return [f"## {title}", "\n".join(table(head, rows))] if rows else []
