"""The likely cause of a bad value: its part of the step, its operation, its inputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxnn.guard.backtrace import Origin
from jaxnn.guard.layers import Culprit

PARTS = {
    "data": "the input already has it: repair or remove those samples",
    "augmentation": "the augmentation (`augment`) made it of finite inputs",
    "mixup": "mixup made it of finite inputs",
    "weight noise": "the noise on the weights made it of finite weights: a smaller one",
    "update": "the optimizer, or a projection after it, made it of finite gradients: "
    "look at lr, epsilon and schedule",
}

GROWN = "values have grown too large for their type; try a smaller lr, another init, "
GROWN += "clip_norm or inputs of a smaller scale"
EDGE = "keep its input away from there before the function (double where), or add an "
EDGE += "epsilon inside"


class _Given(NamedTuple):
    """What an operation was given where its result is bad, as float64."""

    args: list[np.ndarray]
    nan: bool  # whether the result has NaN

    def any(self, which: int, test: Callable) -> bool:
        """Whether an entry of an argument passes; also where shapes do not match."""
        return len(self.args) > which and bool(test(self.args[which]).any())

    @property
    def infinite(self) -> bool:
        """Whether an argument was infinite before."""
        return any(not np.isfinite(a).all() for a in self.args)


def _is_zero(a):
    return a == 0


def _below_zero(a):
    return a < 0


def _log(given):
    what = "of 0" if given.any(0, _is_zero) else "of a number too large"
    what = "of a negative number" if given.any(0, _below_zero) else what
    return (
        f"log {what}: take logits and a loss that computes the logarithm itself "
        f"(softmax_cross_entropy, log_softmax + nll), or {EDGE}"
    )


def _rsqrt(given):
    what = "a negative number" if given.any(0, _below_zero) else "0"
    return f"1 / sqrt of {what}: add an epsilon inside"


def _div(given):
    if given.any(1, _is_zero):
        above, below = given.args[:2]
        what = "0 / 0" if ((above == 0) & (below == 0)).any() else "a division by 0"
        return (
            f"{what}: add an epsilon to the denominator, inside any square root; a row "
            "that is constant, or all 0, has no spread and no length to divide by"
        )
    if given.infinite:
        return f"infinity / infinity, after an earlier overflow: {GROWN}"
    return (
        "a quotient overflows: its denominator is nearly 0; add an epsilon to it, or "
        "look at what made it so small"
    )


def _mul(given):
    if not given.infinite:
        return f"a product of finite numbers overflows: {GROWN}"
    if given.nan:
        return (
            "0 times infinity, often the branch not taken of a `where`: make its input "
            "safe before the function (double where)"
        )
    return f"a product with an infinite number: {GROWN}"


def _sum(given):
    if given.nan and given.infinite:
        return (
            "infinity minus infinity: a row whose entries are all masked with -inf, or "
            "an earlier overflow"
        )
    return f"a sum of finite numbers overflows: {GROWN}"


def _power(given):
    if given.any(0, _is_zero):
        return f"0 to a negative power is infinite: {EDGE}"
    if given.nan and given.any(0, _below_zero):
        return "a negative number to a power that is not whole is not real"
    return f"a power overflows: {GROWN}"


def _exp(name, instead):
    def words(given):
        if given.any(0, np.isposinf):
            return f"{name} of infinity, after an earlier overflow: {GROWN}"
        return (
            f"{name} overflows (above 88 in float32, 11 in float16): subtract the "
            f"row's maximum first, or use {instead}"
        )

    return words


def _product(what):
    def words(given):
        if given.infinite:
            return f"{what} meets an infinite number: {GROWN}"
        return (
            f"{what} overflows: weights or inputs have grown too large; try a smaller "
            "lr, another init, clip_norm or inputs of a smaller scale"
        )

    return words


def _domain(function, domain):
    return (
        f"{function} outside {domain}, or at its edge: clip what goes in to a little "
        "less than that"
    )


CAUSES: dict[str, str | Callable[[_Given], str]] = {
    "log": _log,
    "log1p": "log1p of -1 or less: use softplus, or a loss on logits",
    "sqrt": "the square root of a negative number: variances as E[x^2] - E[x]^2 can "
    "round below 0; take the mean of squared deviations",
    "rsqrt": _rsqrt,
    "div": _div,
    "rem": "a remainder of a division by 0, or of an infinite number",
    "mul": _mul,
    "add": _sum, "sub": _sum, "add_any": _sum, "reduce_sum": _sum, "cumsum": _sum,
    "scatter-add": _sum, "reduce_window_sum": _sum,
    "pow": _power, "integer_pow": _power,
    "exp": _exp("exp", "softmax, softplus, log_softmax"),
    "exp2": _exp("exp2", "softmax, softplus, log_softmax"),
    "expm1": _exp("expm1", "elu, or clip what goes in"),
    "sinh": _exp("sinh", "tanh, or clip what goes in"),
    "cosh": _exp("cosh", "tanh, or clip what goes in"),
    "dot_general": _product("a matrix product"),
    "conv_general_dilated": _product("a convolution"),
    "reduce_prod": _product("a product along an axis"),
    "cumprod": _product("a cumulative product"),
    "square": "a square overflows (above 1.8e19 in float32, 255 in float16): " + GROWN,
    "convert_element_type": "a value is outside the range of the narrower type: scale "
    "the loss or the inputs, or compute this part in float32",
    "select_n": "a constant that is not finite was chosen by a condition",
    "asin": _domain("arcsin", "[-1, 1]"), "acos": _domain("arccos", "[-1, 1]"),
    "atanh": _domain("arctanh", "(-1, 1)"), "erf_inv": _domain("erfinv", "(-1, 1)"),
    "acosh": _domain("arccosh", "[1, inf)"), "sin": _domain("sin", "finite numbers"),
    "cos": _domain("cos", "finite numbers"), "tan": _domain("tan", "finite numbers"),
    "lgamma": _domain("lgamma", "(0, inf)"), "digamma": _domain("digamma", "(0, inf)"),
}  # fmt: skip
"""Operation -> likely cause and what to do, of what it was given."""


def _of_operation(op: str, inputs: Any, output: Any) -> str:
    """Words for an operation whose result is not finite, "" if there are none."""
    words = CAUSES.get(op)
    if words is None or isinstance(words, str):
        return words or ""
    args = [_wide(a) for a in inputs]
    args = [a for a in args if a is not None]
    bad = ~np.isfinite(np.asarray(output, np.float64))
    if all(a.shape in ((), bad.shape) for a in args):
        args = [np.broadcast_to(a, bad.shape)[bad] for a in args]
    return words(_Given(args, bool(np.isnan(np.asarray(output, np.float64)).any())))


def _wide(a):
    """A number's array as float64, None for keys and conditions."""
    a = np.asarray(a)
    try:
        return a.astype(np.float64) if a.dtype != bool else None
    except (TypeError, ValueError):
        return None


def _of_edge(op: str) -> str:
    """Words where a factor of a derivative is infinite and the value is not."""
    what = {
        "div": "a root, a norm, a quotient or an inverse function",
        "rsqrt": "an inverse function such as arccos or arcsin",
        "pow": "a power", "integer_pow": "a quotient or a power",
    }.get(op, op or "a function")  # fmt: skip
    return (
        f"the derivative of {what} is infinite at the edge of its domain (sqrt at 0, "
        f"norm of 0, arccos at 1), where its value is finite: {EDGE}"
    )


def likely_cause(
    part: str,
    origin: Origin | None,
    by_layers: Culprit | None,
    before: str = "",
    ahead: bool = False,
) -> str:
    """Words for what went wrong, from the part of the step and the operation.

    `ahead`: whether a factor of the gradient was made bad on the way forward.
    """
    if part == "data" and (origin is None or by_layers is not None):
        return PARTS[part]
    before = before or (
        by_layers.before if by_layers is not None and origin is None else ""
    )
    if before:
        return (
            f"{before} was not finite before this step already: look at its "
            "initializer, at what loaded it, or at a run with guard='off'"
        )
    if origin is None and by_layers is not None and np.isfinite(by_layers.value).all():
        if part == "update":
            return "the update is so large that its square overflows: a smaller lr"
        return (
            "the gradient is so large that its square overflows: a smaller lr, another "
            "init, or clip_norm"
        )
    if part in PARTS and origin is None:
        return PARTS[part]
    words = ""
    if origin is not None and origin.constant:
        words = "a constant that is not finite came in here: look at this line"
    elif origin is not None:
        words = _of_operation(origin.op, origin.given, origin.value)
    words = words or "values have grown too large, or a function left its domain"
    if part in PARTS and part != "data":
        words = f"{PARTS[part]}; {words}"
    if ahead:
        return _of_edge(origin.op if origin is not None else "")
    if part == "backward":
        words += "; the forward values are finite, so the formula of the gradient is "
        words += "unsafe here"
    return words
