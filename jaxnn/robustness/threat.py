"""What an attacker may do, in numbers, and how sure a share of images is."""

import math
from typing import NamedTuple

from jaxnn.attacks.core import NORMS, Box
from jaxnn.errors import JaxnnError, lookup


class Threat(NamedTuple):
    """A white-box attacker who may move each image by `epsilon` in `norm`.

    Attributes:
      norm: "linf", "l2" or "l1".
      epsilon: budget in pixel units of [0, 1].
      box: limits of a pixel.
    """

    norm: str = "linf"
    epsilon: float = 0.1
    box: Box = (0.0, 1.0)

    def checked(self) -> "Threat":
        """Itself; raises a `JaxnnError` for an unknown norm or a budget not above 0."""
        lookup("norm", self.norm, dict.fromkeys(NORMS))
        if not (self.epsilon > 0 and math.isfinite(self.epsilon)):
            raise JaxnnError(
                f"threat model: got epsilon {self.epsilon}, expected a number above 0"
            )
        return self

    def __str__(self) -> str:
        limits = "no box" if self.box is None else f"pixels in {list(self.box)}"
        return (
            f"{self.norm} <= {self.epsilon:g}, {limits}, full knowledge of the network"
        )


class Share(NamedTuple):
    """So many of so many images, with Wilson's 95% interval.

    Attributes:
      count: how many.
      total: of how many.
    """

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share in [0, 1]; NaN of no images."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Where the share lies with 95%: sound near 0 and 1, too (Wilson 1927)."""
        if not self.total:
            return 0.0, 1.0
        z, n, p = 1.959964, self.total, self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.2f}% [{100 * low:.1f}, {100 * high:.1f}]"
