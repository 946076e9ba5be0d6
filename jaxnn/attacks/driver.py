"""`@attack`: the one place where arguments are checked and attacks are compiled.

An attack is written as one function of traced arrays, `(model, x, y, *, ...)`. The
decorator enters it in `ATTACKS`, checks what it is given before anything is traced, and
compiles it: epsilon, step size and key are arguments of the program, all else is part
of it. The function itself stays within reach as `ATTACKS[name].core`.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import jax

from jaxnn import programs
from jaxnn.attacks.arguments import (
    as_images,
    check_epsilon,
    check_key,
    check_step_size,
    checked_box,
    checked_images,
    checked_setting,
)
from jaxnn.attacks.classifier import Classifier, is_of_logits, to_logits
from jaxnn.attacks.core import NORMS, margin
from jaxnn.errors import JaxnnError, lookup, require
from jaxnn.rules.products import PRECISIONS

F = TypeVar("F", bound=Callable[..., Any])

TRACED = ("epsilon", "step_size", "key")


class Attack(NamedTuple):
    """An attack as the tables know it; what is not told here, see `attack`."""

    name: str  # what commands and errors call it
    run: Callable[..., Any]  # checks its arguments and runs the compiled program
    core: Callable[..., Any]  # as it was written, to be traced in another program
    norms: tuple[str, ...]
    gradients: bool
    takes: dict[str, Any]  # settings -> defaults (`inspect.Parameter.empty`: none)
    traced: tuple[str, ...]
    limits: Mapping[str, tuple[float, float]]
    check: Callable[[dict[str, Any], Any], Any] | None
    in_suite: bool = False

    def bind(self, x: Any, options: dict[str, Any]) -> dict[str, Any]:
        """All settings: `options` checked for images x, and the defaults."""
        for name in options:
            if name not in self.takes:
                raise JaxnnError(
                    f"attack {self.name} has no setting {name!r}; it takes "
                    f"{', '.join(self.takes)}"
                )
        settings = self.takes | options
        for name, value in settings.items():
            if value is inspect.Parameter.empty:
                raise JaxnnError(f"{self.name}: expected {name}=, got none")
        box = settings.get("box")  # the budget depends on it, and on the norm
        settings |= {} if box is None else {"box": checked_box(self.name, box)}
        norm = settings.get("norm", "linf")
        if "norm" in settings and not (isinstance(norm, str) and norm in self.norms):
            raise JaxnnError(
                f"{self.name}: unknown norm {norm!r}; valid names: "
                f"{', '.join(self.norms)}"
            )
        for name, value in settings.items():
            settings[name] = self._checked(name, value, x, settings)
        if self.check is not None:
            self.check(settings, x)
        return settings

    def _checked(self, name, value, x, settings):
        default = self.takes[name]
        if value is None and default is None:
            return None
        if isinstance(value, jax.core.Tracer):
            return value
        if name == "epsilon":
            norm = settings.get("norm", "linf")
            check_epsilon(self.name, value, x, norm, settings.get("box"))
        elif name == "step_size":
            check_step_size(self.name, value, x)
        elif name == "key":
            check_key(self.name, value)
        elif name == "loss":
            require(callable(value), self.name, name, value, "a function")
        elif name == "kind":
            require(isinstance(value, str), self.name, name, value, "a name")
        elif isinstance(default, bool | int | float) or name in self.limits:
            limits = self.limits.get(name, (0.0, math.inf))
            return checked_setting(self.name, name, value, default, limits)
        return tuple(value) if isinstance(value, list) else value


ATTACKS: dict[str, Attack] = {}
"""Every attack by name, entered by `@attack`."""


def attack(
    *, norms: tuple[str, ...] = NORMS, gradients: bool = True,
    traced: tuple[str, ...] = (),
    limits: Mapping[str, tuple[float, float]] | None = None,
    check: Callable[[dict[str, Any], Any], Any] | None = None, in_suite: bool = False,
) -> Callable[[F], F]:  # fmt: skip
    """Make an attack of a function `(model, x, y, *, ...)` of traced arrays.

    Whole numbers must be at least 1, other numbers at least 0 unless `limits` says
    otherwise; `epsilon`, `norm`, `step_size`, `key`, `box`, `loss` and `targeted` mean
    the same in every attack.

    Args:
      norms: in which it can keep a budget, or keep small what it changes.
      gradients: whether it follows the network's gradient.
      traced: settings that are arguments of the compiled program, besides `TRACED`.
      limits: setting -> (low, high) that a number must lie in.
      check: called with all settings and x, raises for what does not go together.
      in_suite: whether `jaxnn.robustness` runs it, too, with its own settings.
    """

    def register(core: F) -> F:
        @functools.wraps(core)
        def run(model: Classifier, x: Any, y: Any, *more: Any, **options: Any) -> Any:
            return _run(found, model, x, y, more, options)

        parameters = list(inspect.signature(core).parameters.values())[3:]
        found = Attack(
            core.__name__, run, core, norms, gradients,
            {p.name: p.default for p in parameters}, (*TRACED, *traced),
            limits or {}, check, in_suite,
        )  # fmt: skip
        ATTACKS[found.name] = found
        return cast(F, run)

    return register


def attack_of(function: Callable[..., Any]) -> tuple[Attack, dict[str, Any]]:
    """What the table knows of an attack, and the settings a `partial` of it has."""
    bound: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        bound = function.keywords | bound
        function = function.func
    for found in ATTACKS.values():
        if found.run is function:
            return found, bound
    name = getattr(function, "__name__", repr(function))
    raise JaxnnError(
        f"{name} is no attack of jaxnn.attacks (or `partial` of one); write your own "
        "with the decorator jaxnn.attacks.attack"
    )


def _run(found, model, x, y, more, options):
    if not isinstance(model, Classifier) or more:
        raise JaxnnError(
            f"{found.name}: got {type(model).__name__} and {len(more) + 2} arrays, "
            f"expected {found.name}(model, x, y, ...) with model = Classifier(net, "
            "params, state)"
        )
    if found.gradients and not model.gradients:
        others = ", ".join(sorted(a.name for a in ATTACKS.values() if not a.gradients))
        raise JaxnnError(
            f"{found.name} follows the gradient, and a black box has none; attacks "
            f"that see outputs only: {others}"
        )
    x = as_images(found.name, x)
    # who stops at the edge of a class would stop where rounding moves it
    if "epsilon" not in found.takes or options.get("early_stop"):
        model = model.exact
    elif model.precision is not None:
        lookup("precision", model.precision, dict.fromkeys(PRECISIONS))
        single = jax.dtypes.canonicalize_dtype(x.dtype) == "float32"
        fits = model.precision == "float32" or single
        require(fits, found.name, "precision", model.precision, "images in float32")
    settings = found.bind(x, options)
    x, y = checked_images(found.name, model, x, y, settings.get("box"))
    model = model.keyed(x)
    if is_of_logits(settings.get("loss", margin)):
        model, y = to_logits(model, x, y)
    given = {k: v for k, v in settings.items() if k in found.traced}
    static = tuple((k, v) for k, v in settings.items() if k not in found.traced)
    for name, value in static:
        try:
            hash(value)
        except TypeError as error:
            text = f"{found.name}: got {name} of a kind that is no setting"
            raise JaxnnError(text) from error
    return _program(found.core, static, model, x, y, given)


@functools.partial(programs.jit, static_argnums=(0, 1))
def _program(core, static, model, x, y, given):
    return core(model, x, y, **dict(static), **given)
