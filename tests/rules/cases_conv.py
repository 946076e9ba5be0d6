"""Convolution and pooling: every element of every window picked by a matrix of 0 and 1.

References are dense: pick[p, k, i] is 1 where element k of window p is element i of the
input, so that padding, strides and dilation need no code of their own.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import rules
from tests.rules.common import Case, normal


def pads_of(padding, sizes, spans, strides):
    if isinstance(padding, str):
        return jax.lax.padtype_to_pads(sizes, spans, strides, padding)
    return ((padding, padding),) * len(sizes) if isinstance(padding, int) else padding


def each(value, axes):
    return (value,) * axes if isinstance(value, int) else value


def picks(sizes, kernel, stride, padding, dilation):
    """For each axis pick (windows, elements, input)."""
    strides, dilations = each(stride, len(sizes)), each(dilation, len(sizes))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = pads_of(padding, sizes, spans, strides)
    found = []
    for n, k, s, d, span, (low, high) in zip(
        sizes, kernel, strides, dilations, spans, pads, strict=True
    ):
        count = (n + low + high - span) // s + 1
        at = np.arange(count)[:, None] * s + np.arange(k)[None] * d - low
        found.append((at[..., None] == np.arange(n)[None, None]).astype(float))
    return found


LETTERS = [("p", "k", "h"), ("q", "l", "w"), ("r", "m", "d")]


def subscripts(axes):
    """Of the picks, the windows, the elements and the input, for einsum."""
    letters = LETTERS[:axes]
    out, kernel, image = ("".join(group) for group in zip(*letters, strict=True))
    return ",".join("".join(group) for group in letters), out, kernel, image


def conv(stride=1, padding="SAME", dilation=1, groups=1):
    def reference(x, w):
        kernel, axes = w.shape[:-2], w.ndim - 2
        pick = picks(x.shape[1:-1], kernel, stride, padding, dilation)
        by, out, k, image = subscripts(axes)
        x = x.reshape(*x.shape[:-1], groups, w.shape[-2])
        w = w.reshape(*w.shape[:-1], groups, w.shape[-1] // groups)
        y = jnp.einsum(f"{by},b{image}gc,{k}cgo->b{out}go", *pick, x, w)
        return y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1])

    return reference


def conv_transpose(stride=1, padding="SAME", dilation=1):
    def reference(x, w):
        axes, sizes = w.ndim - 2, x.shape[1:-1]
        strides, dilations = each(stride, axes), each(dilation, axes)
        if padding == "SAME":
            made = [n * s for n, s in zip(sizes, strides, strict=True)]
        else:
            spans = [
                (k - 1) * d + 1 for k, d in zip(w.shape[:-2], dilations, strict=True)
            ]
            pads = pads_of(padding, sizes, spans, strides)
            made = [
                (n - 1) * s + span - sum(pair)
                for n, s, span, pair in zip(sizes, strides, spans, pads, strict=True)
            ]
        pick = picks(made, w.shape[:-2], stride, padding, dilation)
        by, out, k, image = subscripts(axes)
        return jnp.einsum(f"{by},b{out}c,{k}co->b{image}o", *pick, x, w)

    return reference


def avg_pool(size, stride, padding):
    def reference(x):
        pick = picks(x.shape[1:-1], size, stride or size, padding, 1)
        by, out, _, image = subscripts(len(size))
        total = jnp.einsum(f"{by},b{image}c->b{out}c", *pick, x)
        count = jnp.einsum(f"{by},b{image}c->b{out}c", *pick, jnp.ones_like(x))
        return total / count

    return reference


def max_pool(size, stride, padding):
    def reference(x):
        strides = each(stride or size, len(size))
        pads = pads_of(padding, x.shape[1:-1], size, strides)
        pads = ((0, 0), *pads, (0, 0))
        window, strides = (1, *size, 1), (1, *strides, 1)
        return jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, strides, pads)

    return reference


CONV = {  # x, kernel, channels out, settings
    "3x3": ((2, 5, 4, 3), (3, 3), 2, {}),
    "all of size one": ((1, 1, 1, 1), (1, 1), 1, {}),
    "batch of one, odd": ((1, 7, 5, 3), (3, 5), 4, {}),
    "even kernel": ((2, 6, 5, 2), (4, 2), 3, {}),
    "no images": ((0, 5, 5, 2), (3, 3), 2, {}),
    "no padding": ((2, 6, 7, 2), (3, 2), 3, {"padding": "VALID"}),
    "kernel larger than the image": ((2, 2, 3, 2), (5, 5), 3, {}),
    "1x1, stride 2": ((2, 5, 4, 3), (1, 1), 2, {"stride": 2}),
    "stride 2": ((2, 6, 5, 2), (3, 3), 3, {"stride": 2}),
    "stride larger than the kernel": ((2, 9, 8, 2), (2, 1), 3, {"stride": (4, 3)}),
    "explicit pairs": ((2, 5, 4, 2), (3, 3), 3, {"padding": ((0, 2), (3, 1))}),
    "more padding than kernel": ((1, 3, 3, 2), (2, 2), 2, {"padding": 3}),
    "dilation 2": ((2, 7, 8, 2), (3, 2), 3, {"dilation": 2}),
    "dilation, stride, padding": (
        (2, 9, 8, 2), (3, 3), 3, {"dilation": (1, 3), "stride": (2, 1), "padding": 1}
    ),
    "2 groups": ((2, 5, 4, 4), (3, 3), 6, {"groups": 2}),
    "depthwise, multiplier 2, stride 2": (
        (2, 6, 5, 3), (3, 3), 6, {"groups": 3, "stride": 2}
    ),
    "one channel": ((2, 6, 6, 1), (5, 5), 8, {}),
    "sequence, stride, dilation": ((2, 9, 2), (3,), 4, {"stride": 2, "dilation": 2}),
    "sequence of one step": ((3, 1, 2), (3,), 2, {}),
    "sequence, groups": ((2, 6, 4), (2,), 4, {"groups": 4, "padding": "VALID"}),
    "volume": ((1, 3, 4, 3, 2), (2, 3, 2), 3, {"stride": (1, 2, 1)}),
}  # fmt: skip

TRANSPOSE = {
    "3x3": ((2, 4, 3, 2), (3, 3), 3, {}),
    "all of size one": ((1, 1, 1, 1), (1, 1), 1, {}),
    "stride 2": ((2, 3, 4, 2), (3, 3), 3, {"stride": 2}),
    "stride larger than the kernel": ((2, 2, 3, 2), (2, 1), 3, {"stride": 3}),
    "no crop": ((2, 3, 4, 2), (3, 2), 3, {"stride": (2, 3), "padding": "VALID"}),
    "explicit pairs": ((2, 3, 4, 2), (3, 3), 3, {"padding": ((0, 1), (2, 0))}),
    "dilation": ((2, 4, 3, 2), (3, 2), 2, {"dilation": 2, "stride": 2}),
    "no images": ((0, 3, 3, 2), (3, 3), 2, {}),
    "sequence": ((2, 5, 3), (4,), 2, {"stride": 2}),
}  # fmt: skip

POOL = {  # x, size, stride, padding
    "2x2": ((2, 4, 6, 3), (2, 2), None, "VALID"),
    "all of size one": ((1, 1, 1, 1), (1, 1), None, "VALID"),
    "rows left over": ((2, 5, 7, 2), (2, 3), None, "VALID"),
    "overlapping": ((2, 7, 6, 2), (3, 3), 2, "VALID"),
    "same, odd": ((1, 5, 7, 2), (2, 2), None, "SAME"),
    "explicit pairs": ((2, 5, 4, 2), (3, 3), (1, 2), ((0, 2), (1, 0))),
    "padding on every side": ((2, 4, 4, 2), (3, 2), 2, 1),
    "stride larger than the size": ((2, 8, 7, 2), (2, 1), 3, "VALID"),
    "no images": ((0, 4, 4, 2), (2, 2), None, "VALID"),
    "no channels": ((2, 4, 4, 0), (2, 2), None, "VALID"),
    "sequence": ((2, 7, 3), (3,), 2, "SAME"),
    "volume": ((1, 4, 4, 2, 2), (2, 2, 2), None, "VALID"),
    "more than 256 elements": ((1, 34, 17, 1), (17, 17), None, "SAME"),
}  # fmt: skip


def products(rule, reference, table):
    cases = []
    for name, (shape, kernel, out, settings) in table.items():
        per_group = shape[-1] // settings.get("groups", 1)
        args = (normal(*shape), normal(*kernel, per_group, out, seed=1))
        cases.append(Case(name, rule(**settings), args, reference(**settings)))
    return cases


def pools(rule, reference, ties):
    cases = [
        Case(name, rule(*settings), (normal(*shape),), reference(*settings))
        for name, (shape, *settings) in POOL.items()
    ]
    if ties:
        for name, (shape, *settings) in POOL.items():
            few = np.round(normal(*shape))  # several equal maxima in most windows
            case = Case(f"{name}, ties", rule(*settings), (few,), reference(*settings))
            cases.append(case)
        lost = np.full((1, 4, 4, 1), -np.inf)
        settings = ((3, 3), 2, "SAME")
        cases.append(Case("all -inf", rule(*settings), (lost,), reference(*settings)))
    return cases


GLOBAL = [(2, 3, 4, 2), (1, 1, 1, 1), (3, 5, 2), (0, 2, 2, 3), (1, 2, 3, 2, 2)]


def global_cases(rule, reference):
    return [
        Case(f"shape {s}", rule, (np.round(4 * normal(*s)),), reference) for s in GLOBAL
    ]


def global_avg_pool(x):
    weights = jnp.full(x.shape[1:-1], 1 / np.prod(x.shape[1:-1]))
    return jnp.tensordot(x, weights, ([*range(1, x.ndim - 1)], [*range(weights.ndim)]))


def global_max_pool(x):
    return max_pool(x.shape[1:-1], None, "VALID")(x).reshape(len(x), x.shape[-1])


def add_bias_cases():
    shapes = [(2, 3, 4, 5), (1, 1), (4,), (0, 3, 2), (2, 0)]
    return [
        Case(
            f"shape {s}",
            rules.add_bias,
            (normal(*s), normal(s[-1], seed=1)),
            lambda x, b: x + jnp.broadcast_to(b, x.shape),
        )
        for s in shapes
    ]


CASES = {
    "add_bias": add_bias_cases(),
    "avg_pool": pools(rules.avg_pool, avg_pool, ties=False),
    "conv": products(rules.conv, conv, CONV),
    "conv_transpose": products(rules.conv_transpose, conv_transpose, TRANSPOSE),
    "global_avg_pool": global_cases(rules.global_avg_pool, global_avg_pool),
    "global_max_pool": global_cases(rules.global_max_pool, global_max_pool),
    "max_pool": pools(rules.max_pool, max_pool, ties=True),
}
