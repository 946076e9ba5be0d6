"""Layers that move elements. Shapes, axes and widths leave out the batch axis."""

from collections.abc import Sequence

from jaxnn import rules
from jaxnn.errors import JaxnnError
from jaxnn.layers.bounds import averaging, bounded, monotone
from jaxnn.layers.core import Layer, constructor, register, shaped, value
from jaxnn.rules import Rule
from jaxnn.rules.shape import Widths, fill_in, pairs_of

__all__ = ["crop", "flatten", "pad", "reshape", "transpose", "upsample"]

flatten = bounded(
    value("jaxnn.layers:flatten", shaped(rules.flatten, takes="numbers")), monotone
)
"""x (B, ...) -> y (B, D), D the product of all axes but the batch's."""


@constructor
def reshape(*shape: int) -> Layer:
    """x (B, ...) -> y (B, *shape), the elements in the same order.

    One size may be -1: what is left for it. Back to images from pixels: `reshape(28,
    28, 1)`.
    """
    name = f"reshape({', '.join(map(str, shape))})"

    def fwd(x):
        return rules.reshape((len(x), *fill_in(name, shape, x.shape[1:]))).fwd(x)

    return _moving(Rule("reshape", fwd, rules.reshape().bwd), name)


@constructor
def transpose(*axes: int) -> Layer:
    """The axes in another order: y's axis i is x's axis `axes[i]`; none: reversed.

    `transpose(2, 0, 1)` makes (B, C, H, W) of images (B, H, W, C).
    """
    name = f"transpose({', '.join(map(str, axes))})"

    def order(ndim):
        """Of x with its batch axis."""
        wanted = axes or tuple(reversed(range(ndim - 1)))
        found = [a + ndim if a < 0 else a + 1 for a in wanted]
        if sorted(found) != list(range(1, ndim)):
            raise JaxnnError(
                f"{name}: expected each of the {ndim - 1} axes once, 0 being the one "
                "after the batch"
            )
        return (0, *found)

    def rule(x):
        return rules.transpose(order(x.ndim))

    def fwd(x):
        return rule(x).fwd(x)

    def bwd(cache, dy):
        return rule(dy).bwd(cache, dy)

    return _moving(Rule("transpose", fwd, bwd), name)


@constructor
def pad(widths: Widths = 1, mode: str = "zero") -> Layer:
    """A border around x: x (B, H, W, C) -> y (B, H + 2 width, W + 2 width, C).

    Args:
      widths: an int for both ends of all axes between batch and channels, or one entry
        for each axis but the batch's: an int or (before, after).
      mode: "zero", "edge" (the outermost repeated) or "reflect" (mirrored at it). See
        `jaxnn.rules.pad`.
    """
    rule = rules.pad(_with_batch(widths), mode)
    return _framed(rule, widths, f"pad({_shown(widths)}, {mode})")


@constructor
def crop(widths: Widths = 1) -> Layer:
    """x without its border: takes the `widths` of `pad` and undoes it."""
    name = f"crop({_shown(widths)})"

    def rule(x):
        pairs = pairs_of("crop", _with_batch(widths), x.ndim)
        return rules.slice(tuple(slice(b, -a or None) for b, a in pairs))

    def fwd(x):
        y, cache = rule(x).fwd(x)
        if 0 in y.shape[1:]:
            raise JaxnnError(f"{name}: nothing is left of an x of shape {x.shape}")
        return y, cache

    def bwd(cache, dy):
        return rule(dy).bwd(cache, dy)

    return _framed(Rule("crop", fwd, bwd), widths, name)


@constructor
def upsample(factor: int | Sequence[int] = 2, method: str = "nearest") -> Layer:
    """Enlarge by whole factors: x (B, H, W, C) -> y (B, H f, W f, C).

    Args:
      factor: for all axes between batch and channels, or a sequence with one for each.
      method: "nearest", or "linear" (bilinear). See `jaxnn.rules.upsample`.
    """
    rule = rules.upsample(factor, method)
    layer = shaped(rule, name=f"upsample({_shown(factor)}, {method})")
    return bounded(layer, averaging, terms=4)


def _framed(rule: Rule, widths: Widths, name: str) -> Layer:
    def fwd(x):
        if isinstance(widths, Sequence) and len(widths) != x.ndim - 1:
            raise JaxnnError(
                f"{name}: got {len(widths)} widths for in_shape {x.shape[1:]}, "
                "expected an int or one for each axis but the batch's"
            )
        return rule.fwd(x)

    return _moving(Rule(rule.name, fwd, rule.bwd), name)


def _moving(rule: Rule, name: str) -> Layer:
    """A layer that moves elements, of whatever type."""
    return bounded(shaped(rule, name=name, takes="numbers"), monotone)


def _with_batch(widths: Widths) -> Widths:
    return [0, *widths] if isinstance(widths, Sequence) else widths


def _shown(setting) -> str:
    return str(list(setting) if isinstance(setting, Sequence) else setting)


register(crop, flatten, pad, reshape, transpose, upsample)
