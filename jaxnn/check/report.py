"""The report of a comparison: as an object, a table, a line, JSON."""

from dataclasses import asdict, dataclass, field

from jaxnn.check.findings import Check, Finding
from jaxnn.check.measure import LIMITS, LeafComparison


@dataclass(frozen=True)
class GradientReport:
    """What `compare_gradients` found.

    Attributes:
      leaves: one entry a leaf of the whole gradient and precision.
      findings: errors pinned to a layer and an argument; () if there are none.
      checks: every layer's own comparisons, if the layers were audited.
      kinks: layer -> entries at a kink of its derivative.
      excused: layers that choose another value at a kink than `jax.grad`.
      error: what the whole backward raised, None if it ran.
    """

    leaves: tuple[LeafComparison, ...]
    findings: tuple[Finding, ...] = ()
    checks: tuple[Check, ...] = ()
    kinks: dict[str, int] = field(default_factory=dict)
    excused: tuple[str, ...] = ()
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every leaf passed, and every layer where they were audited."""
        return not self.findings and all(leaf.passed for leaf in self.leaves)

    @property
    def worst(self) -> LeafComparison:
        """The leaf furthest beyond, or nearest to, the limit of its precision.

        Where errors were pinned to layers, of those: what lies before them is no fault
        of its own. The input of layer 2 is called "2/x".
        """
        if self.findings:
            return max((f.comparison for f in self.findings), key=_severity)
        return max(self.leaves, key=lambda c: (not c.passed, _severity(c)))

    def max_relative(self, dtype: str) -> float:
        """Largest relative difference over the leaves in that precision.

        Those excused by their note are left out: where a gradient is 0 but for rounding
        (a bias before batch norm) nothing is left to be relative to.
        """
        return max(
            (c.max_relative for c in self.leaves if c.dtype == dtype and not c.excused),
            default=0.0,
        )

    def table(self) -> str:
        """The comparison as text, a line a leaf, failures marked, then the blame."""
        width = max([16, *(len(c.leaf) + 1 for c in self.leaves)])
        head = (
            f"{'leaf':<{width}}{'shape':<18}{'dtype':<9}{'max abs':>10}{'relative':>10}"
            f"{'max ulp':>10}{'<=4 ulp':>9}{'cosine':>12}"
        )
        lines = [head, *(self._row(c, width) for c in self.leaves)]
        if self.error:
            lines.append(f"the whole backward pass raised {self.error}")
        lines += [f"BLAME {finding.line()}" for finding in self.findings]
        return "\n".join(lines)

    def _row(self, c, width) -> str:
        mark = f"  ({c.note})" if c.note else ""
        if not c.passed and not c.note:
            mark = (
                f"  FAIL at {list(c.index)}: by hand {c.manual:.6g}, "
                f"jax.grad {c.automatic:.6g}"
            )
        elif not c.passed:
            mark = f"  FAIL: {c.note}"
        return (
            f"{c.leaf:<{width}}{c.shape!s:<18}{c.dtype:<9}{c.max_abs:>10.1e}"
            f"{c.max_relative:>10.1e}{c.ulp_max:>10.3g}{c.ulp_within[1]:>9.1%}"
            f"{c.cosine:>12.9f}{mark}"
        )

    def line(self) -> str:
        """The comparison in one line."""
        found = ", ".join(
            f"{dtype} {self.max_relative(dtype):.1e}"
            for dtype in dict.fromkeys(c.dtype for c in self.leaves)
        )
        if self.passed:
            count = len({c.leaf for c in self.leaves})
            excused = len({c.leaf for c in self.leaves if c.excused})
            but = f" ({excused} of them but for rounding or kinks)" if excused else ""
            all_of_them = f"agree in all {count} arrays{but}"
            return f"{all_of_them}, largest relative difference: {found}"
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
            "worst": asdict(self.worst),
            "error": self.error,
            "findings": [f.to_json() | {"line": f.line()} for f in self.findings],
            "kinks": self.kinks,
            "excused": list(self.excused),
            "leaves": [asdict(c) for c in self.leaves],
            "layers": [asdict(c) for c in self.checks],
        }


def _severity(c: LeafComparison) -> float:
    return c.max_relative / LIMITS[c.dtype]
