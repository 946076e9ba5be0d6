"""What an audit finds: comparisons made, and errors pinned to a layer and argument."""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from jaxnn.check.measure import LeafComparison

AS_CALLED, ELSEWHERE = "as called", "with other parameters"
SHUFFLED, DRAWN, WIDE = "at shuffled inputs", "at random inputs", "at large inputs"


@dataclass(frozen=True)
class Check:
    """One argument of one layer, at one point and in one precision.

    Attributes:
      layer: such as "2 dense(5)", with its number in the network.
      argument: "x" for the layer's input, else the path of the parameter in the layer.
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
