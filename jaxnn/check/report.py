"""What a comparison finds: errors pinned to a layer, and the whole in words."""

from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np

from jaxnn.check.measure import LIMITS, LeafComparison

AS_CALLED, ELSEWHERE = "as called", "with other parameters"
SHUFFLED, DRAWN, WIDE = "at shuffled inputs", "at random inputs", "at large inputs"
SIZES, POSITIVE = "at inputs of all sizes", "at positive inputs"
NEGATIVE = "at negative inputs"


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
class Finding:
    """An error, pinned to one argument of one layer.

    Attributes:
      layer: as in `Check`.
      argument: as in `Check`.
      at: as in `Check`; where several checks fail, the first of them is told.
      comparison: as in `Check`.
      cause: a guess of what is wrong.
      dtypes: the precisions it shows in.
    """

    layer: str
    argument: str
    at: str
    comparison: LeafComparison
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

    def to_json(self) -> dict:
        """The finding as plain JSON values."""
        return asdict(self)


class Audit(NamedTuple):
    """What `jaxnn.check.audit.audit` found.

    Attributes:
      checks: every comparison made.
      findings: the errors, those nearest to the output first.
      kinks: layer -> entries that lie at a kink of its derivative, where there are any.
      excused: layers whose gradient differs at a kink only, by another convention.
    """

    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    kinks: dict[str, int]
    excused: tuple[str, ...]


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
      lost: the loss, where it is not finite.
    """

    leaves: tuple[LeafComparison, ...]
    findings: tuple[Finding, ...] = ()
    checks: tuple[Check, ...] = ()
    kinks: dict[str, int] = field(default_factory=dict)
    excused: tuple[str, ...] = ()
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
        every = len({c.leaf for c in self.leaves})
        said = list(self.lost)
        for c in bad[:1]:
            said.append(
                f"{len({c.leaf for c in bad})} of {every} arrays, such as {c.leaf} "
                f"({c.dtype}): {c.note}"
            )
        return ", ".join(said)

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
        if self.not_finite and not self.findings:
            return f"NOT FINITE, so neither right nor wrong: {self.not_finite}"
        if self.passed:
            count = len({c.leaf for c in self.leaves})
            excused = len({c.leaf for c in self.leaves if c.excused})
            but = f" ({excused} of them but for rounding or kinks)" if excused else ""
            matching = f"match: {count} of {count} arrays{but}"
            return f"{matching}, largest relative difference: {found}"
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
            "findings": [f.to_json() | {"line": f.line()} for f in self.findings],
            "kinks": self.kinks,
            "excused": list(self.excused),
            "leaves": [asdict(c) for c in self.leaves],
            "layers": [asdict(c) for c in self.checks],
        }


def _severity(c: LeafComparison) -> float:
    return c.max_relative / LIMITS[c.dtype]
