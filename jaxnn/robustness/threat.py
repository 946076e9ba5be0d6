"""What an attacker may do, in numbers, and how sure a share of images is."""

import math
from typing import Any, NamedTuple

from jaxnn.attacks.core import NORMS, Box
from jaxnn.errors import lookup, require


class Threat(NamedTuple):
    """A white-box attacker who may move each image by `epsilon` in `norm`."""

    norm: str = "linf"  # or "l2" or "l1"
    epsilon: float = 0.1  # budget in pixel units of [0, 1]
    box: Box = (0.0, 1.0)  # limits of a pixel

    def checked(self) -> "Threat":
        """Itself; raises a `JaxnnError` for an unknown norm or a budget not above 0."""
        lookup("norm", self.norm, dict.fromkeys(NORMS))
        fits = self.epsilon > 0 and math.isfinite(self.epsilon)
        require(fits, "threat model", "epsilon", self.epsilon, "a number above 0")
        return self

    def __str__(self) -> str:
        limits = "no box" if self.box is None else f"pixels in {list(self.box)}"
        return (
            f"{self.norm} <= {self.epsilon:g}, {limits}, full knowledge of the network"
        )


class Proportion(NamedTuple):
    """`count` of `total` images, with Wilson's 95% interval."""

    count: int
    total: int

    @staticmethod
    def of(images: Any) -> "Proportion":
        """The share of the images (N,) that are True."""
        return Proportion(int(images.sum()), len(images))

    @property
    def value(self) -> float:
        """The share in [0, 1]; NaN of no images."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Where the share lies with 95%: sound near 0 and 1, too (Wilson 1927)."""
        return self.within(1.959964)

    def within(self, z: float) -> tuple[float, float]:
        """Where the share lies, `z` standard errors to either side (Wilson 1927)."""
        if not self.total:
            return 0.0, 1.0
        n, p = self.total, self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.2f}% [{100 * low:.1f}, {100 * high:.1f}]"


SURE = 3.0
"""Standard errors beyond which a check fails: one in a thousand by chance, for twenty
checks a network."""


def surely_above(count: int, total: int, limit: float) -> bool:
    """Whether a share is above `limit` beyond the error of so many images."""
    return Proportion(count, total).within(SURE)[0] > limit


def surely_more(lost: Any, gained: Any, limit: float) -> bool:
    """Whether `lost` (N,) are more than `gained` by the share `limit`, beyond error.

    Two measurements of the same images: which only the one, which only the other lost.

    Source: Agresti, Min 2005, "Simple improved confidence intervals for comparing
    matched proportions": half an image is added to either count.
    """
    a, b, total = int(lost.sum()), int(gained.sum()), len(lost) + 2
    error = math.sqrt(a + b + 1 - (a - b) ** 2 / total) / total
    return (a - b) / total - SURE * error > limit
