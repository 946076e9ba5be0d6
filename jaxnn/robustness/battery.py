"""Which attacks an evaluation runs, cheapest first."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxnn import attacks


class Weapon(NamedTuple):
    """An attack with its settings.

    Attributes:
      name: what tables call it.
      attack: a function of `jaxnn.attacks`.
      options: its settings; budget, norm and key come from the threat model.
      images: how many images it sees: None is all, a number a stratified sample.
    """

    name: str
    attack: Callable[..., Any]
    options: dict[str, Any]
    images: int | None = None


def first_three(steps: int = 40, restarts: int = 1) -> list[Weapon]:
    """Of every evaluation, `jaxnn train`'s report among them: all images see them."""
    options = {"steps": steps, "restarts": restarts}
    return [
        Weapon("FGSM", attacks.fgsm, {}),
        Weapon(f"PGD-{steps}", attacks.pgd, options),
        Weapon(f"PGD-{steps}, margin", attacks.pgd, options | {"loss": attacks.margin}),
    ]


def battery(level: str, norm: str, classes: int) -> list[Weapon]:
    """The weapons of a level: `fast` (about a minute for a small MLP) or `full`."""
    full = level == "full"
    steps = 100 if full else 40
    restarts = 10 if full else 1
    found = first_three(steps, restarts)
    if norm in ("linf", "l2"):
        options = {"steps": 100 if full else 50, "restarts": 5 if full else 1}
        loss = attacks.dlr if classes >= 3 else attacks.margin
        words = "DLR" if classes >= 3 else "margin"
        name = f"APGD-{options['steps']}, {words}"
        found.append(Weapon(name, attacks.apgd, options | {"loss": loss}))
        if full:
            found.append(Weapon("APGD-100", attacks.apgd, options))
    if norm == "linf":
        queries = 5000 if full else 500
        found.append(
            Weapon(
                f"Square-{queries} (black-box)",
                attacks.square,
                {"queries": queries},
                1000 if full else 500,
            )
        )
    return found
