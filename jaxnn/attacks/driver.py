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
import jax.numpy as jnp
import numpy as np

from jaxnn import programs
from jaxnn.attacks.classifier import Classifier
from jaxnn.attacks.core import NORMS
from jaxnn.attacks.objectives import margin
from jaxnn.attacks.outputs import as_logits, is_of_logits
from jaxnn.errors import JaxnnError

F = TypeVar("F", bound=Callable[..., Any])

TRACED = ("epsilon", "step_size", "key")


class Attack(NamedTuple):
    """An attack as the tables know it.

    Attributes:
      name: what commands and errors call it.
      run: checks its arguments and runs the compiled program.
      core: the function as it was written, to be traced inside another program.
      norms: in which it can keep a budget, or keep small what it changes.
      gradients: whether it follows the network's gradient.
      takes: its settings, with their defaults (`inspect.Parameter.empty`: none).
      traced: those that are arguments of the compiled program.
      limits: setting -> (low, high) that a number must lie in.
      check: called with all settings and x, raises for what does not go together.
    """

    name: str
    run: Callable[..., Any]
    core: Callable[..., Any]
    norms: tuple[str, ...]
    gradients: bool
    takes: dict[str, Any]
    traced: tuple[str, ...]
    limits: Mapping[str, tuple[float, float]]
    check: Callable[[dict[str, Any], Any], None] | None

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
        settings |= {} if box is None else {"box": _checked_box(self.name, box)}
        if "norm" in settings:
            _check_norm(self.name, settings["norm"], self.norms)
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
            _check_step_size(self.name, value, x)
        elif name == "key":
            _check_key(self.name, value)
        elif name == "loss" and not callable(value):
            raise JaxnnError(f"{self.name}: got loss {value!r}, expected a function")
        elif name == "kind" and not isinstance(value, str):
            raise JaxnnError(f"{self.name}: got kind {value!r}, expected a name")
        elif isinstance(default, bool):
            return _flag(self.name, name, value)
        elif isinstance(default, int):
            return _count(self.name, name, value)
        elif isinstance(default, float) or name in self.limits:
            low, high = self.limits.get(name, (0.0, math.inf))
            return _number(self.name, name, value, low, high)
        return tuple(value) if isinstance(value, list) else value


ATTACKS: dict[str, Attack] = {}
"""Every attack by name, entered by `@attack`."""


def attack(
    *,
    norms: tuple[str, ...] = NORMS,
    gradients: bool = True,
    traced: tuple[str, ...] = (),
    limits: Mapping[str, tuple[float, float]] | None = None,
    check: Callable[[dict[str, Any], Any], None] | None = None,
) -> Callable[[F], F]:
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
    """

    def register(core: F) -> F:
        @functools.wraps(core)
        def run(model: Classifier, x: Any, y: Any, *more: Any, **options: Any) -> Any:
            return _run(found, model, x, y, more, options)

        parameters = list(inspect.signature(core).parameters.values())[3:]
        found = Attack(
            core.__name__, run, core, norms, gradients,
            {p.name: p.default for p in parameters}, (*TRACED, *traced),
            limits or {}, check,
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
    x = as_images(found.name, x)
    settings = found.bind(x, options)
    x, y = _checked_images(found.name, model, x, y, settings)
    if not len(x):
        return jnp.asarray(x)
    model = model.keyed(x)
    if is_of_logits(settings.get("loss", margin)):
        classes = model.facts(x).classes
        model, y = as_logits(model, classes), (y > 0) * 1 if classes == 1 else y
    given = {k: v for k, v in settings.items() if k in found.traced}
    static = tuple((k, v) for k, v in settings.items() if k not in found.traced)
    try:
        hash(static)
    except TypeError:
        wrong = [k for k, v in static if not _hashable(v)]
        raise JaxnnError(
            f"{found.name}: got {', '.join(wrong)} of a kind that is no setting"
        ) from None
    return _program(found.core, static, model, x, y, given)


@functools.partial(programs.jit, static_argnums=(0, 1))
def _program(core, static, model, x, y, given):
    return core(model, x, y, **dict(static), **given)


def _hashable(value):
    try:
        hash(value)
    except TypeError:
        return False
    return True


def as_images(attack: str, x: Any) -> Any:
    """x as an array of floats, from whatever NumPy can read."""
    if not isinstance(x, jax.Array):
        try:
            x = np.asarray(x)
        except (ValueError, TypeError, RuntimeError) as error:  # ragged, or of torch
            raise JaxnnError(
                f"{attack}: images are {type(x).__name__}, expected an array of floats "
                f"(B, ...): {error}"
            ) from None
    if x.ndim == 0 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise JaxnnError(
            f"{attack}: images are {x.dtype} {x.shape}, expected floats (B, ...) in "
            "[0, 1]; divide uint8 pixels by 255"
        )
    return x


def _checked_images(attack, model, x, y, settings):
    """x within the box, y as integers; raises for what an attack cannot work with."""
    y = check_labels(attack, y, len(x))
    if not x.size:
        return x, y
    if not isinstance(y, jax.core.Tracer):
        check_classes(attack, y, model.facts(x).classes)
    box = settings.get("box")
    if isinstance(x, jax.core.Tracer):
        return x, y
    pixels = np.asarray(x)  # NumPy, so that nothing is traced where a caller traces
    # by itself: the least of numbers and NaN is a number on some devices
    if not np.isfinite(pixels).all():
        raise JaxnnError(
            f"{attack}: some pixels are NaN or infinite; let the network own its "
            "normalisation, and look at the images that were read"
        )
    if box is None:
        return x, y
    low, high = pixels.min().item(), pixels.max().item()
    # what a float32 computation of pixels, such as 255 * (1 / 255), may be off by
    slack = 4 * max(jnp.finfo(jnp.float32).eps, jnp.finfo(x.dtype).eps)
    slack = float(slack) * max(abs(box[0]), abs(box[1]))
    if not (box[0] - slack <= low and high <= box[1] + slack):
        raise JaxnnError(
            f"{attack}: pixels range from {low:g} to {high:g}, expected within the box "
            f"{box}; let the network own its normalisation, or pass box=None"
        )
    return x if box[0] <= low and high <= box[1] else jnp.clip(x, *box), y


def check_labels(attack: str, y: Any, count: int) -> Any:
    """y as an array of integers (B,); raises a `JaxnnError` for anything else."""
    if not isinstance(y, jax.Array):
        try:
            y = np.asarray(y)
        except (ValueError, TypeError, RuntimeError) as error:
            raise JaxnnError(
                f"{attack}: labels are {type(y).__name__}, expected integers (B,): "
                f"{error}"
            ) from None
    if y.ndim == 2 and len(y) == count:
        raise JaxnnError(
            f"{attack}: got labels of shape {y.shape}, expected integers ({count},); "
            "of one-hot rows take y.argmax(-1)"
        )
    if len(y) != count if y.ndim else True:
        raise JaxnnError(
            f"{attack}: got {count} images and {len(y) if y.ndim else 'no'} labels"
        )
    if y.ndim != 1 or (count and not jnp.issubdtype(y.dtype, jnp.integer)):
        raise JaxnnError(
            f"{attack}: got labels {y.dtype} {y.shape}, expected integers ({count},)"
        )
    return y if count else np.zeros(0, np.int32)


def check_classes(attack: str, y: Any, classes: int) -> None:
    """Raise a `JaxnnError` for a label that the network has no output for."""
    labels = np.asarray(y)
    low, high = int(labels.min()), int(labels.max())
    if classes == 1 and low >= -1 and high <= 1:  # no and yes; of hinge -1 and 1
        return
    if low < 0 or high >= classes:
        raise JaxnnError(
            f"{attack}: labels range from {low} to {high}, but the network has "
            f"{classes} outputs: expected 0 to {classes - 1}"
        )


def _check_norm(attack, norm, norms):
    if not isinstance(norm, str) or norm not in norms:
        raise JaxnnError(
            f"{attack}: unknown norm {norm!r}; valid names: {', '.join(norms)}"
        )


def _checked_box(attack, box):
    try:
        low, high = map(float, box)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not (low < high and math.isfinite(high - low)):
        raise JaxnnError(
            f"{attack}: got box {box}, expected numbers (low, high), low < high"
        )
    return low, high


def widest(norm: str, box: tuple[float, float] | None, features: int) -> float:
    """The distance in that norm between opposite corners of the box."""
    if box is None:
        return math.inf
    each = {"linf": 1.0, "l2": math.sqrt(features), "l1": float(features)}[norm]
    return (box[1] - box[0]) * each


def check_epsilon(
    attack: str, epsilon: Any, x: Any, norm: str, box: tuple[float, float] | None
) -> None:
    """Raise a `JaxnnError` for no budget: below 0, not finite, wider than the box."""
    values = _numbers(attack, "epsilon", epsilon, len(x))
    if not (values >= 0).all():
        raise JaxnnError(f"{attack}: got epsilon {epsilon}, expected >= 0")
    most = widest(norm, box, math.prod(x.shape[1:]))
    # 1e-6: rounding of the square root
    if values.size and values.max() > most * (1 + 1e-6):
        raise JaxnnError(
            f"{attack}: got epsilon {values.max():g}, but the box {box} is only "
            f"{most:g} wide in {norm}; epsilon is in units of pixels in the box: 8 of "
            "255 is 8 / 255"
        )


def _check_step_size(attack, size, x):
    values = _numbers(attack, "step_size", size, len(x))
    if not (values > 0).all():
        raise JaxnnError(f"{attack}: got step_size {size}, expected > 0")


def _numbers(attack, name, value, count):
    try:
        values = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        values = np.full((1, 1), math.nan)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != count):
        raise JaxnnError(
            f"{attack}: got {name} {value!r}, expected one number or one an image "
            f"({count},); for several budgets use attacks.sweep"
        )
    if not (np.isfinite(values) | (values < 0)).all():
        raise JaxnnError(f"{attack}: got {name} {value}, expected >= 0 and finite")
    return values


def _check_key(attack, key):
    if key is None:
        raise JaxnnError(f"{attack}: expected key=jax.random.key(seed), got none")
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    raw = dtype == np.uint32 and key.shape == (2,)
    if not (raw or (typed and key.shape == ())):
        raise JaxnnError(
            f"{attack}: got key {key!r}, expected one key, jax.random.key(seed)"
        )


def _flag(attack, name, value):
    if not isinstance(value, bool | np.bool_):
        raise JaxnnError(f"{attack}: got {name}={value!r}, expected True or False")
    return bool(value)


def _count(attack, name, value):
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < 1:
        raise JaxnnError(
            f"{attack}: got {name}={value!r}, expected >= 1, a whole number"
        )
    return int(value)


def _number(attack, name, value, low, high):
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (low <= number <= high and math.isfinite(number)):
        bounds = f">= {low:g}" if high == math.inf else f"{low:g} to {high:g}"
        raise JaxnnError(f"{attack}: got {name}={value!r}, expected {bounds}")
    return number
