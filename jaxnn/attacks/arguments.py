"""What an attack is given: taken as it is meant, or refused in one line."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import as_array, is_key, is_whole
from jaxnn.errors import JaxnnError, require


def as_images(attack: str, x: Any) -> Any:
    """x as an array of floats (B, ...)."""
    x = as_array(x, attack, "images")
    if x.ndim == 0 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise JaxnnError(
            f"{attack}: images are {x.dtype} {x.shape}, expected floats (B, ...) in "
            "[0, 1]; divide uint8 pixels by 255"
        )
    if not x.size:
        raise JaxnnError(
            f"{attack}: got no images, x has shape {x.shape}; expected (B, ...) with "
            "at least one image of at least one pixel"
        )
    return x


def checked_images(
    attack: str, model: Any, x: Any, y: Any, box: tuple[float, float] | None,
    finite: bool = True,
) -> tuple[Any, Any]:  # fmt: skip
    """x within the box, y as integers; raises for what an attack cannot work with.

    Pixels that are not finite stay where they need not be `finite`.
    """
    y = _check_labels(attack, y, len(x))
    if not isinstance(y, jax.core.Tracer):
        _check_classes(attack, y, model.facts(x).classes)
    if isinstance(x, jax.core.Tracer):
        return x, y
    pixels = np.asarray(x)  # NumPy, so that nothing is traced where a caller traces
    # by itself: the least of numbers and NaN is a number on some devices
    if finite and not np.isfinite(pixels).all():
        raise JaxnnError(
            f"{attack}: some pixels are NaN or infinite; let the network own its "
            "normalization, and look at the images that were read"
        )
    return _within_box(attack, x, box), y


def _within_box(attack, x, box):
    """x, clipped to the box where only rounding took it out; NaN stays."""
    if box is None:
        return x
    pixels = np.asarray(x)
    low, high = (f.reduce(pixels, axis=None).item() for f in (np.fmin, np.fmax))
    # what a float32 computation of pixels, such as 255 * (1 / 255), may be off by
    slack = 4 * max(jnp.finfo(jnp.float32).eps, jnp.finfo(x.dtype).eps)
    slack = float(slack) * max(abs(box[0]), abs(box[1]))
    if low < box[0] - slack or high > box[1] + slack:
        raise JaxnnError(
            f"{attack}: pixels range from {low:g} to {high:g}, expected within the box "
            f"{box}; divide pixels of bytes by 255, let the network own its "
            "normalization, or pass another box="
        )
    return x if box[0] <= low and high <= box[1] else jnp.clip(x, *box)


def _check_labels(attack, y, count):
    """y as an array of integers (B,); raises a `JaxnnError` for anything else."""
    y = as_array(y, attack, "labels")
    if y.shape != (count,) or not jnp.issubdtype(y.dtype, jnp.integer):
        hint = "; of one-hot rows take y.argmax(-1)" if y.ndim == 2 else ""
        raise JaxnnError(
            f"{attack}: got labels {y.dtype} {y.shape} of {count} images, expected "
            f"integers ({count},){hint}"
        )
    return y


def _check_classes(attack, y, classes):
    """Raise a `JaxnnError` for a label that the network has no output for."""
    labels = np.asarray(y)
    low, high = int(labels.min()), int(labels.max())
    least, most = (-1, 1) if classes == 1 else (0, classes - 1)
    if low < least or high > most:
        fits = f"{classes} outputs: expected 0 to {most}"
        if classes == 1:
            fits = "one output: expected 1 for yes, 0 or -1 for no"
        raise JaxnnError(
            f"{attack}: labels range from {low} to {high}, but the network has {fits}"
        )


def checked_box(attack: str, box: Any) -> tuple[float, float]:
    """The limits of a pixel as two numbers, low < high."""
    try:
        low, high = map(float, box)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    fits = low < high and math.isfinite(high - low)
    require(fits, attack, "box", box, "numbers (low, high), low < high")
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
    values = _numbers(attack, "epsilon", epsilon, x)
    require((values >= 0).all(), attack, "epsilon", epsilon, ">= 0")
    most = widest(norm, box, math.prod(x.shape[1:]))
    # 1e-6: rounding of the square root
    if values.size and values.max() > most * (1 + 1e-6):
        raise JaxnnError(
            f"{attack}: got epsilon {values.max():g}, but the box {box} is only "
            f"{most:g} wide in {norm}; epsilon is in units of pixels in the box: 8 of "
            "255 is 8 / 255"
        )


def check_step_size(attack: str, size: Any, x: Any) -> None:
    """Raise a `JaxnnError` for a step that is not above 0."""
    values = _numbers(attack, "step_size", size, x)
    require((values > 0).all(), attack, "step_size", size, "> 0")


def _numbers(attack, name, value, x):
    try:
        values = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        values = np.full((1, 1), math.nan)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != len(x)):
        raise JaxnnError(
            f"{attack}: got {name} {value!r}, expected one number or one an image "
            f"({len(x)},); for several budgets use attacks.sweep"
        )
    fits = (np.isfinite(values) | (values < 0)).all()
    require(fits, attack, name, value, ">= 0 and finite")
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)  # of NumPy's float64 what JAX makes
    tiny = float(jnp.finfo(dtype).tiny)
    if ((values > 0) & (values < tiny)).any():
        raise JaxnnError(
            f"{attack}: got {name} {value}, which is 0 in {dtype}; expected 0 or at "
            f"least {tiny:.2g}"
        )
    return values


def check_key(attack: str, key: Any) -> None:
    """Raise a `JaxnnError` for what is not one key of `jax.random`."""
    raw = getattr(key, "dtype", None) == np.uint32 and key.shape == (2,)
    fits = raw or (is_key(key) and key.shape == ())
    require(fits, attack, "key", key, "one key, key=jax.random.key(seed)")


def checked_setting(
    attack: str, name: str, value: Any, default: Any, limits: tuple[float, float]
) -> Any:
    """A setting of its default's kind: True or False, a whole number >= 1, a number."""
    if isinstance(default, bool):
        fits = isinstance(value, bool | np.bool_)
        require(fits, attack, name, value, "True or False")
        return bool(value)
    if isinstance(default, int):
        require(is_whole(value), attack, name, value, ">= 1, a whole number")
        return int(value)
    low, high = limits
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    fits = low <= number <= high and math.isfinite(number)
    bounds = f">= {low:g}" if high == math.inf else f"{low:g} to {high:g}"
    require(fits, attack, name, value, bounds)
    return number
