"""The likely cause of a bad value: its part of the step, its operation, its inputs."""

from contextlib import suppress

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

LESS = "try a smaller lr, another init, clip_norm or inputs of a smaller scale"
GROWN = f"values have grown too large for their type; {LESS}"
EDGE = "keep its input away from there before the function (double where), or add an "
EDGE += "epsilon inside"
LOGITS = "take logits and a loss that computes the logarithm itself "
LOGITS += f"(softmax_cross_entropy, log_softmax + nll), or {EDGE}"
SPREAD = "add an epsilon to the denominator, inside any square root; a row that is "
SPREAD += "constant, or all 0, has no spread and no length to divide by"


ALWAYS = ""
Cases = dict[str, str]  # what was so -> words; the first that was so is said


def _facts(args: list[np.ndarray], nan: bool) -> set[str]:
    """What was so of an operation's arguments, where its result is bad or has NaN."""
    first, second = (args + [np.ones(1)] * 2)[:2]
    infinite = any(not np.isfinite(a).all() for a in args)
    zeros = first == 0, second == 0
    facts = {
        ALWAYS: True, "infinite": infinite, "infinite, NaN": infinite and nan,
        "+inf": np.isposinf(first).any(), "zero": zeros[0].any(),
        "negative": (first < 0).any(), "negative, NaN": nan and (first < 0).any(),
        "by zero": zeros[1].any(),
        "0 / 0": first.shape == second.shape and (zeros[0] & zeros[1]).any(),
    }  # fmt: skip
    return {fact for fact, holds in facts.items() if holds}


def _exp(name, instead) -> Cases:
    return {
        "+inf": f"{name} of infinity, after an earlier overflow: {GROWN}",
        ALWAYS: f"{name} overflows (above 88 in float32, 11 in float16): subtract the "
        f"row's maximum first, or use {instead}",
    }


def _product(what) -> Cases:
    return {
        "infinite": f"{what} meets an infinite number: {GROWN}",
        ALWAYS: f"{what} overflows: weights or inputs have grown too large; {LESS}",
    }


def _domain(function, domain) -> Cases:
    words = f"{function} outside {domain}, or at its edge: clip what goes in to a "
    return {ALWAYS: f"{words}little less than that"}


SUM: Cases = {
    "infinite, NaN": "infinity minus infinity: a row whose entries are all masked with "
    "-inf, or an earlier overflow",
    ALWAYS: f"a sum of finite numbers overflows: {GROWN}",
}
POWER: Cases = {
    "zero": f"0 to a negative power is infinite: {EDGE}",
    "negative, NaN": "a negative number to a power that is not whole is not real",
    ALWAYS: f"a power overflows: {GROWN}",
}
CAUSES: dict[str, Cases] = {
    "log": {
        "negative": f"log of a negative number: {LOGITS}",
        "zero": f"log of 0: {LOGITS}",
        ALWAYS: f"log of a number too large: {LOGITS}",
    },
    "log1p": {ALWAYS: "log1p of -1 or less: use softplus, or a loss on logits"},
    "sqrt": {
        ALWAYS: "the square root of a negative number: variances as E[x^2] - E[x]^2 "
                "can round below 0; take the mean of squared deviations"
    },
    "rsqrt": {
        "negative": "1 / sqrt of a negative number: add an epsilon inside",
        ALWAYS: "1 / sqrt of 0: add an epsilon inside",
    },
    "div": {
        "0 / 0": f"0 / 0: {SPREAD}",
        "by zero": f"a division by 0: {SPREAD}",
        "infinite": f"infinity / infinity, after an earlier overflow: {GROWN}",
        ALWAYS: "a quotient overflows: its denominator is nearly 0; add an epsilon to "
                "it, or look at what made it so small",
    },
    "rem": {ALWAYS: "a remainder of a division by 0, or of an infinite number"},
    "mul": {
        "infinite, NaN": "0 times infinity, often the branch not taken of a `where`: "
                         "make its input safe before the function (double where)",
        "infinite": f"a product with an infinite number: {GROWN}",
        ALWAYS: f"a product of finite numbers overflows: {GROWN}",
    },
    **dict.fromkeys(("add", "sub", "add_any", "reduce_sum", "cumsum", "scatter-add",
                     "reduce_window_sum"), SUM),
    "pow": POWER, "integer_pow": POWER,
    "exp": _exp("exp", "softmax, softplus, log_softmax"),
    "exp2": _exp("exp2", "softmax, softplus, log_softmax"),
    "expm1": _exp("expm1", "elu, or clip what goes in"),
    "sinh": _exp("sinh", "tanh, or clip what goes in"),
    "cosh": _exp("cosh", "tanh, or clip what goes in"),
    "dot_general": _product("a matrix product"),
    "conv_general_dilated": _product("a convolution"),
    "reduce_prod": _product("a product along an axis"),
    "cumprod": _product("a cumulative product"),
    "square": {
        ALWAYS: f"a square overflows (above 1.8e19 in float32, 255 in float16): {GROWN}"
    },
    "convert_element_type": {
        ALWAYS: "a value is outside the range of the narrower type: scale the loss or "
                "the inputs, or compute this part in float32"
    },
    "select_n": {ALWAYS: "a constant that is not finite was chosen by a condition"},
    "asin": _domain("arcsin", "[-1, 1]"), "acos": _domain("arccos", "[-1, 1]"),
    "atanh": _domain("arctanh", "(-1, 1)"), "erf_inv": _domain("erfinv", "(-1, 1)"),
    "acosh": _domain("arccosh", "[1, inf)"), "sin": _domain("sin", "finite numbers"),
    "cos": _domain("cos", "finite numbers"), "tan": _domain("tan", "finite numbers"),
    "lgamma": _domain("lgamma", "(0, inf)"), "digamma": _domain("digamma", "(0, inf)"),
}  # fmt: skip
"""Operation -> likely causes and what to do."""


EDGES = {
    "div": "a root, a norm, a quotient or an inverse function",
    "rsqrt": "an inverse function such as arccos or arcsin",
    "pow": "a power", "integer_pow": "a quotient or a power",
}  # fmt: skip
"""Operation of a derivative -> what it is the derivative of, if not of itself."""


def _of_operation(origin: Origin) -> str:
    """Words for an operation whose result is not finite, "" if there are none."""
    if origin.constant:
        return "a constant that is not finite came in here: look at this line"
    if origin.op not in CAUSES:
        return ""
    y = np.asarray(origin.value, np.float64)
    bad = ~np.isfinite(y)
    args = [np.asarray(a, np.float64) for a in origin.given if a.dtype != bool]
    with suppress(ValueError):  # shapes that do not match, as of a product
        args = [np.broadcast_to(a, bad.shape)[bad] for a in args]
    facts = _facts(args, bool(np.isnan(y).any()))
    return next(words for fact, words in CAUSES[origin.op].items() if fact in facts)


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
    if origin is None and by_layers is not None:
        before = before or by_layers.before
    if before:
        return (
            f"{before} was not finite before this step already: look at its "
            "initializer, at what loaded it, or at a run with guard='off'"
        )
    if origin is None:
        if by_layers is not None and np.isfinite(by_layers.value).all():
            what, fix = "gradient", "a smaller lr, another init, or clip_norm"
            if part == "update":
                what, fix = "update", "a smaller lr"
            return f"the {what} is so large that its square overflows: {fix}"
        if part in PARTS:
            return PARTS[part]
    elif ahead:
        return (
            f"the derivative of {EDGES.get(origin.op, origin.op)} is infinite at the "
            "edge of its domain (sqrt at 0, norm of 0, arccos at 1), where its value "
            f"is finite: {EDGE}"
        )
    words = _of_operation(origin) if origin is not None else ""
    words = words or "values have grown too large, or a function left its domain"
    if part in PARTS and part != "data":
        return f"{PARTS[part]}; {words}"
    if part == "backward":
        words += "; the forward values are finite, so the formula of the gradient is "
        words += "unsafe here"
    return words
