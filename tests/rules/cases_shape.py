"""Cases of the rules that move elements, with NumPy moving their numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import rules
from tests.rules.common import Case, normal


def moved(by_numpy):
    """What `by_numpy` does to the elements' numbers; -1 stands for a zero."""

    def reference(x):
        places = by_numpy(np.arange(x.size).reshape(x.shape))
        if 0 in (places.size, x.size):
            return jnp.zeros(places.shape) * x.sum()
        return jnp.where(places < 0, 0, x.reshape(-1)[places])

    return reference


def table(make, by_numpy, settings):
    """Cases of (shape of x, *settings of the rule)."""
    return [
        Case(
            f"shape {shape}: {args}",
            make(*args),
            (normal(*shape),),
            moved(lambda places, args=args: by_numpy(places, *args)),
        )
        for shape, *args in settings
    ]


RESHAPES = [
    ((3, 4), -1), ((3, 4), (2, -1, 2)), ((1, 1), ()), ((), (1, 1)), ((0, 4), (2, 0)),
    ((0, 4), (-1, 4)),
]  # fmt: skip
TRANSPOSES = [
    ((3, 4),), ((2, 3, 4), (2, 0, 1)), ((2, 3, 4), (0, -1, 1)), ((2, 3, 1, 4), None),
    ((), None), ((0, 4), (1, 0)),
]  # fmt: skip
SLICES = [
    ((3, 4),), ((3, 4), 1), ((3, 4), (slice(None), -1)), ((7,), np.s_[5:1:-2]),
    ((7,), np.s_[-20:20:3]), ((7,), np.s_[4:2]), ((7,), None),
    ((5, 6, 7), np.s_[1, ..., ::3]), ((5, 6, 7), np.s_[None, 2, :, None, -3::-2]),
    ((0, 4), np.s_[:, ::2]), ((), ...), ((2, 4, 3), (slice(-6, 5, 3), None, ..., -3)),
]  # fmt: skip
PADS = [
    ((2, 3, 4, 1),), ((2, 3), [1, (0, 2)]), ((1, 1), [(0, 0), 0]), ((2, 5, 1), 2),
    ((0, 4), [1, 0]),
]  # fmt: skip
BORDERS = [
    ((2, 3, 4, 1), 1), ((2, 3), [1, (0, 2)]), ((4,), [(3, 3)]), ((2,), [(5, 4)]),
    ((1,), [(2, 1)]), ((1, 1), [(0, 0), 0]), ((0, 4), [0, (1, 0)]),
    ((2, 3, 4), [(9, 2), (0, 7), (1, 8)]),
]  # fmt: skip
BROADCASTS = [
    ((3, 1), (2, 3, 4)), ((4,), (3, 4)), ((), (2, 3)), ((2, 1, 3), (2, 1, 3)),
    ((1, 4), (0, 4)),
]  # fmt: skip


def padded(mode):
    def by_numpy(places, widths=1):
        if isinstance(widths, int):
            widths = [0, *[widths] * (places.ndim - 2), 0]
        widths = [(w, w) if isinstance(w, int) else w for w in widths]
        how = {"constant_values": -1} if mode == "constant" else {}
        return np.pad(places, widths, mode, **how)

    return by_numpy


# shapes of the arguments, axis
JOINED = [
    ([(3, 4), (3, 2)], -1), ([(3, 4)], -1), ([(2, 3), (1, 3), (4, 3), (0, 3)], 0),
    ([(2, 3, 1), (2, 1, 1)], 1), ([(2, 2)] * 7, -2),
]  # fmt: skip


def joined(axis):
    def reference(*xs):
        # each in its place among zeros, all added
        sizes = [x.shape[axis] for x in xs]
        total = 0
        for i, x in enumerate(xs):
            widths = [(0, 0)] * x.ndim
            widths[axis] = (sum(sizes[:i]), sum(sizes[i + 1 :]))
            total = total + jnp.pad(x, widths)
        return total

    return reference


# shape, factor; the first is the default
ENLARGED = [
    ((2, 3, 4, 1), 2), ((1, 2, 5, 3), (3, 1)), ((1, 1, 1, 1), 4),
    ((1, 2, 2, 2, 1), (1, 2, 3)), ((1, 3, 1), (5,)),
]  # fmt: skip


def resized(method):
    def reference(factor):
        def resize(x):
            inner = x.ndim - 2
            factors = [factor] * inner if isinstance(factor, int) else factor
            shape = np.multiply(x.shape, [1, *factors, 1])
            return jax.image.resize(x, shape, method)

        return resize

    return reference


def upsample_cases():
    cases = []
    for method in ("nearest", "linear"):
        for shape, factor in ENLARGED:
            rule = rules.upsample(factor, method)
            args = (normal(*shape),)
            reference = resized(method)(factor)
            cases.append(Case(f"{method}, {shape} by {factor}", rule, args, reference))
        rule, args = rules.upsample(2, method), (normal(0, 3, 2, 1),)
        cases.append(
            Case(f"{method}, no images", rule, args, lambda x: x.reshape(0, 6, 4, 1))
        )
    return cases


def flatten_cases():
    shapes = [(3, 4), (5,), (2, 3, 1, 2), (0, 4, 2), (2, 0, 3)]
    return [
        Case(
            f"shape {s}",
            rules.flatten,
            (normal(*s),),
            lambda x: x.reshape(len(x), x.size // len(x) if len(x) else 8),
        )
        for s in shapes
    ]


CASES = {
    "flatten": flatten_cases(),
    "broadcast_to": table(rules.broadcast_to, np.broadcast_to, BROADCASTS),
    "concatenate": [
        Case(
            f"{shapes} along {axis}",
            rules.concatenate(axis),
            tuple(normal(*s, seed=i) for i, s in enumerate(shapes)),
            joined(axis),
        )
        for shapes, axis in JOINED
    ],
    "pad": table(rules.pad, padded("constant"), PADS)
    + [
        case._replace(name=f"{mode}, {case.name}")
        for mode in ("reflect", "edge")
        for case in table(
            lambda widths, mode=mode: rules.pad(widths, mode), padded(mode), BORDERS
        )
    ],
    "reshape": table(rules.reshape, np.reshape, RESHAPES),
    "slice": table(rules.slice, lambda places, index=...: places[index], SLICES),
    "transpose": table(rules.transpose, np.transpose, TRANSPOSES),
    "upsample": upsample_cases(),
}
