"""What a backward pass would return if it were wrong in one place.

The forward is traced into its steps. On the way back each step hands a cotangent to
each of its operands; a mutant hands on something else there (nothing, minus it, without
the factor, by the mean ...). A wrong gradient that is a mutant's in every digit is
explained by it.
"""

import linecache
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import Literal

from jaxnn import programs
from jaxnn.arrays import is_float
from jaxnn.check.points import cast
from jaxnn.check.recorder import LayerInputs, arguments
from jaxnn.traced import (
    QUICK,
    evaluate,
    operations,
    run_operation,
    scan_counts,
    source_place,
)

BESIDE = 8  # arrays that are tried in the place of an operand
LARGE = 1_000_000  # entries of an operand beyond which nothing is tried
WORDS = {
    "dot_general": "the product", "reduce_sum": "the sum", "mul": "*", "div": "/",
    "add": "+", "sub": "-", "reduce_max": "the maximum", "max": "the maximum",
    "min": "the minimum", "select_n": "where", "integer_pow": "the power",
    "broadcast_in_dim": "the broadcast", "conv_general_dilated": "the convolution",
    "logistic": "sigmoid", "neg": "-",
}  # fmt: skip
SMOOTH = {
    *("exp", "log", "tanh", "logistic", "sin", "cos", "sqrt", "rsqrt", "erf", "log1p"),
    *("expm1", "integer_pow", "square", "abs", "atan", "tan", "asinh", "cbrt", "pow"),
}
ELEMENTWISE = {"mul", "div", "add", "sub", "max", "min", "select_n"}
INSTEAD = "{} stands in the place of the other factor of {{}}"
ITSELF = "the factors of {} are exchanged: it is multiplied by itself"
MEAN = "a mean where {{}} needs a sum: divided by {:g}"


class Mutant(NamedTuple):
    """One way to be wrong: one of the `Forward`'s settings, changed.

    Attributes:
      words: what is wrong then.
      place: which setting.
      value: what it is.
      what: the step whose cotangent it changes.
    """

    words: str
    place: int
    value: float
    what: str = ""


class Forward:
    """The forward of a layer, to be asked for its gradient, right and in mutants.

    What the way back depends on are settings, one for each operand: of a float that
    takes a cotangent which change is made to it, 0 for none, and of a plain number its
    value.

    Args:
      run: `(params, state, x, key) -> y`, JAX's alone.
      given: what it was given, for the shapes.
    """

    def __init__(self, run: Callable, given: LayerInputs):
        tree = as_tree(given)
        self.run = lambda tree: run(*(tree[n] for n in ("params", "state", "x", "key")))
        self.traced = jax.make_jaxpr(self.run)(tree)
        self.names: dict[int, str] = {}  # of a variable: the argument or step it is
        paths = jax.tree.leaves_with_path(tree)
        for (path, _), v in zip(paths, self.traced.jaxpr.invars, strict=True):
            # without "x/" or "params/", which stand for the kind of argument
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            self.names[id(v)] = name.partition("/")[2] or name
        self.settings: list[float] = []
        self.edges: dict[tuple[int, int], int] = {}  # operands that take a cotangent
        self.words: dict[int, tuple[str, list[str]]] = {}  # of each: step, its changes
        self.numbers: dict[tuple[int, int], tuple[int, Any]] = {}  # and their steps
        self.program: Callable | None = None
        for eqn in operations(self.traced.jaxpr):
            self._count(eqn)

    def _count(self, eqn):
        self.names |= {id(v): describe(eqn) for v in eqn.outvars}
        if len(eqn.outvars) > 1 or not is_float(eqn.outvars[0].aval):
            return
        for i, v in enumerate(eqn.invars):
            if not is_float(v.aval):
                continue
            if not isinstance(v, Literal) and v.aval.size <= LARGE:
                self.edges[id(eqn), i] = len(self.settings)
                self.settings.append(0)
            elif isinstance(v, Literal) and not np.shape(v.val):
                self.numbers[id(eqn), i] = len(self.settings), eqn
                self.settings.append(float(v.val))

    def gradient(self, given: LayerInputs, *mutants: Mutant) -> dict[str, np.ndarray]:
        """Argument -> gradient of sum(dy y), spoilt by all those mutants at once."""
        settings = np.array(self.settings, float)
        for mutant in mutants:
            settings[mutant.place] = mutant.value
        every = settings, as_tree(given), cast(given.dy, np.float64)
        if self.program is None:
            quick = {"compiler_options": QUICK}
            self.program = programs.ahead(None, self._gradient, *every, **quick)
        return jax.device_get(self.program(*every))

    def paths(self, given: LayerInputs) -> Iterator[Mutant]:
        """Every mutant of a cotangent, the plain ones first."""
        self.gradient(given)  # traces, which finds the words
        for change in range(max((len(ws) for _, ws in self.words.values()), default=0)):
            for edge, (what, words) in self.words.items():
                if change < len(words):
                    yield Mutant(words[change], edge, change + 1, what)

    def literals(self) -> Iterator[Mutant]:
        """The forward's numbers left out, or taken as one minus themselves."""
        for place, eqn in self.numbers.values():
            value = self.settings[place]
            where = f"{value:g} in {describe(eqn)}"
            neutral = 1.0 if eqn.primitive.name in ("mul", "div") else 0.0
            words = f"the constant {where} is left out on the way back"
            yield Mutant(words, place, neutral)
            if 0 < value < 1 and value != 0.5:
                words = f"1 - {value:g} stands in the place of {where}"
                yield Mutant(words, place, 1 - value)

    def _gradient(self, settings, tree, dy):
        def run(tree):
            leaves = jax.tree.leaves(tree)
            return evaluate(self.traced, leaves, partial(self._step, settings))

        y, pull_back = jax.vjp(run, tree)
        dys = zip(jax.tree.leaves(dy), y, strict=True)
        (found,) = pull_back([d.astype(a.dtype) for d, a in dys])
        return arguments((found["x"], found["params"]))

    def _step(self, settings, eqn, values, known):
        if eqn.primitive.name == "scan":
            return self._scan(settings, eqn, values)
        values = list(values)
        for i, v in enumerate(eqn.invars):
            if (id(eqn), i) in self.numbers:
                place, _ = self.numbers[id(eqn), i]
                values[i] = settings[place].astype(v.aval.dtype)
        edges = [self.edges.get((id(eqn), i)) for i in range(len(values))]
        if all(edge is None for edge in edges):
            return run_operation(eqn, values)
        own = jnp.array([0 if e is None else settings[e] for e in edges]).astype(int)
        beside = self._beside(eqn, known)
        names, arrays = [n for n, _ in beside], [a for _, a in beside]
        return [self._mutable(eqn, edges, names)(own, arrays, *values)]

    def _scan(self, settings, eqn, values):
        p = eqn.params
        n, carried = scan_counts(p)
        consts, start, rows = values[:n], values[n : n + carried], values[n + carried :]

        def turn(carry, row):
            step = partial(self._step, settings)
            out = evaluate(p["jaxpr"], [*consts, *carry, *row], step)
            return out[:carried], out[carried:]

        last, out = lax.scan(turn, start, rows, p["length"], p["reverse"])
        return [*last, *out]

    def _beside(self, eqn, known):
        """Arrays that could be mistaken for an operand of a product: (words, array)."""
        if eqn.primitive.name not in ("mul", "dot_general"):
            return []
        shapes = {v.aval.shape for v in eqn.invars if v.aval.shape}
        found = [
            (self.names.get(id(v), "another array"), a)
            for v, a in known.items()
            if v not in eqn.invars and v.aval.shape in shapes and is_float(v.aval)
        ]
        return found[:BESIDE]

    def _mutable(self, eqn, edges, names):
        """The step with a backward pass that its changes can spoil."""

        @jax.custom_vjp
        def step(own, arrays, *operands):
            del own, arrays
            return run_operation(eqn, operands)[0]

        def forward(own, arrays, *operands):
            out = run_operation(eqn, operands)[0]
            return out, (own, arrays, operands, out)

        def backward(kept, ct):
            own, arrays, operands, out = kept
            found: list[Any] = [None, None]
            for i, edge in enumerate(edges):
                if edge is None:
                    found.append(None)
                    continue
                beside = list(zip(names, arrays, strict=True))
                way = _Way(eqn, i, operands, out, ct, beside)
                changes = list(way.changes())
                self.words[edge] = way.what, [words for words, _ in changes]
                several = jnp.stack([way.right, *(a for _, a in changes)])
                found.append(several[own[i]])
            return tuple(found)

        step.defvjp(forward, backward)
        return step


def as_tree(given: LayerInputs) -> dict[str, Any]:
    """All that a forward is given, in float64."""
    tree = {"params": given.params, "state": given.state, "x": given.x}
    return cast(tree, np.float64) | {"key": given.key}


class _Way:
    """The cotangent that one step hands to one of its operands, and wrong ones."""

    def __init__(self, eqn, i, operands, out, ct, beside):
        self.eqn, self.i, self.operands, self.out, self.ct = eqn, i, operands, out, ct
        self.x, self.name, self.params = operands[i], eqn.primitive.name, eqn.params
        self.beside, self.what = beside, describe(eqn)
        self.right = self.pull(self.x, ct)

    def pull(self, x: Array, ct: Array, other: Array | None = None) -> Array:
        """The right cotangent, with the operand at x, and the other one elsewhere."""
        operands = list(self.operands)
        if other is not None:
            operands[1 - self.i] = other

        def along(x):
            operands[self.i] = x
            return run_operation(self.eqn, operands)[0]

        return jax.vjp(along, x)[1](ct)[0]

    def changes(self) -> Iterator[tuple[str, Array]]:
        """(words, cotangent) of each change; every one has the shape of the operand."""
        t, path = self.right, f"the path through {self.what}"
        yield f"{path} is left out", 0 * t
        yield f"the sign of {path} is wrong", -t
        yield f"{path} is counted twice", 2 * t
        yield f"{path} is counted half: is a factor 2 missing?", t / 2
        count = self.ct.size // max(t.size, 1)
        if self.ct.ndim == t.ndim and count > 1 and self.name in ELEMENTWISE:
            yield MEAN.format(count).format(self.what), t / count
        special = {
            "mul": self._product, "div": self._quotient, "reduce_sum": self._sum,
            "max": self._choice, "min": self._choice, "select_n": self._choice,
            "clamp": self._choice, "reduce_max": self._maximum,
            "broadcast_in_dim": self._broadcast, "dot_general": self._matrix,
            "conv_general_dilated": self._convolution,
            "transpose": lambda: [("{} is not undone", self.ct)],
            "cumsum": lambda: [("the gradient of {} runs forwards, not backwards",
                                jnp.cumsum(self.ct, self.params["axis"]))],
        } | dict.fromkeys(SMOOTH, self._smooth) | dict.fromkeys(
            ("slice", "pad", "dynamic_slice", "concatenate", "gather"), self._shifted
        )  # fmt: skip
        for words, a in special.get(self.name, tuple)():
            a = _fitted(a, t.shape)
            if a is not None:
                yield words.replace("{}", self.what), a.astype(t.dtype)
        if count > 1:
            words = f"1 stands in the place of the sum of dy in {path}"
            yield words, jnp.sign(self.pull(self.x, jnp.ones_like(self.ct)))

    # "{}" stands for the step

    def _smooth(self):
        x, y, c = self.x, self.out, self.ct
        slope = self.pull(x, jnp.ones_like(y))
        of_y = self.pull(y, jnp.ones_like(y))
        it = "the derivative of {}"
        yield f"{it} is left out: dy passes as it is", c
        yield f"{it} is taken at its output, not its input", c * of_y
        yield "{} stands in the place of its derivative", c * y
        yield f"it is divided by {it}, not multiplied", c / slope
        yield f"{it} is squared: it is counted twice", c * slope**2
        if self.name == "tanh":
            yield f"{it} is 1 - y^2, not 1 - x^2", c * (1 - x * x)
            yield f"{it} is 1 - y^2, not 1 - y", c * (1 - y)
        if self.name == "logistic":
            yield f"{it} is y (1 - y), not x (1 - x)", c * x * (1 - x)
            yield f"{it} is y (1 - y), not 1 - y", c * (1 - y)
        if self.name == "log":
            yield f"{it} is 1 / x, not x", c * x
        if self.name == "exp":
            yield f"{it} is y = exp(x), not x", c * x
        if self.name in ("sqrt", "rsqrt"):
            yield f"the factor 1/2 of {it} is left out", 2 * self.right
            for n in (-2, -1, 1, 2):
                yield f"{it} has a power of it too many or too few", self.right * y**n
        if self.name == "integer_pow":
            n = self.params["y"]
            yield f"the factor {n} of {it} is left out", c * x ** (n - 1)
            yield "the exponent of {} is not lowered by one", c * n * x**n
            yield "the exponent of {} is lowered by two", c * n * x ** (n - 2)

    def _product(self):
        other, it = self.operands[1 - self.i], "the other factor of {}"
        yield f"{it} is left out", self.ct
        yield ITSELF, self.ct * self.x
        yield f"it is divided by {it}", self.ct / other
        yield f"{it} is in it twice", self.right * other
        for name, array in self.beside:
            if array.shape == jnp.shape(other):
                yield INSTEAD.format(name), self.ct * array

    def _quotient(self):
        a, b = self.operands
        if self.i == 0:
            yield "the divisor of {} is left out", self.ct
            yield "it is multiplied by the divisor of {}", self.ct * b
        else:
            yield "the divisor of {} is not squared", -self.ct * a / b
            yield "the dividend of {} is left out", -self.ct / b**2

    def _sum(self):
        count, axes = self.x.size / max(self.out.size, 1), self.params["axes"]
        if count != 1:
            yield MEAN.format(count), self.right / count
            words = f"a sum where {{}} is a mean: {count:g} times too large"
            yield words, self.right * count
        for axis in range(self.x.ndim if len(axes) == 1 else 0):
            if self.x.shape[axis] == self.x.shape[axes[0]] and axis != axes[0]:
                yield (
                    f"the gradient of {{}} goes along axis {axis}, not "
                    f"{axes[0]}: are keepdims missing?",
                    jnp.swapaxes(self.right, axis, axes[0]),
                )

    def _choice(self):
        yield "the mask of {} is the wrong way round", self.ct - self.right
        yield "the mask of {} is left out: dy passes everywhere", self.ct

    def _maximum(self):
        axes = self.params["axes"]
        c, y = (jnp.expand_dims(a, axes) for a in (self.ct, self.out))
        c = jnp.broadcast_to(c, self.x.shape)
        words = "every entry that equals {} gets all of dy"
        yield words, jnp.where(self.x == y, c, 0)
        yield "every entry under {} gets dy, not the largest alone", c

    def _broadcast(self):
        kept, ct = self.params["broadcast_dimensions"], self.ct
        count = self.out.size / max(self.x.size, 1)
        if count == 1:
            return
        yield MEAN.format(count), self.right / count
        for axis in [a for a in range(self.out.ndim) if a not in kept][:1]:
            for row, name in ((0, "first"), (-1, "last")):
                at = (*[slice(None)] * axis, row)
                alone = jnp.zeros_like(ct).at[at].set(ct[at])
                words = (
                    f"the {name} index of axis {axis} alone: a sum over it is missing"
                )
                yield words, self.pull(self.x, alone)
            for other in kept:
                if ct.shape[other] == ct.shape[axis]:
                    exchanged = jnp.swapaxes(ct, axis, other)
                    words = f"summed over the wrong axis: {other}, not {axis}"
                    yield words, self.pull(self.x, exchanged)

    def _matrix(self):
        other = self.operands[1 - self.i]
        mistaken = [(INSTEAD.format(name), a) for name, a in self.beside]
        if other.ndim == 2 and other.shape[0] == other.shape[1]:
            mistaken += [("a transpose in {} is missing or too many", other.T)]
        mistaken += [(ITSELF, self.x), (ITSELF, self.x.T)]
        stale = "{} is with rows of another batch: a stale cache?"
        for words, changed in [*mistaken, (stale, jnp.roll(other, 1, 0))]:
            if changed.shape == other.shape:
                yield words, self.pull(self.x, self.ct, other=changed)

    def _convolution(self):
        kernel = list(self.params["dimension_numbers"].rhs_spec[2:])
        if self.i == 1:
            yield "the kernel of {} is flipped", jnp.flip(self.right, kernel)
        else:
            flipped = jnp.flip(self.operands[1], kernel)
            words = "the kernel of {} is not flipped"
            yield words, self.pull(self.x, self.ct, other=flipped)
        yield from self._shifted()

    def _shifted(self):
        strides = self.params.get("strides") or ()
        if self.name == "slice" and len(strides) == self.right.ndim:
            every = self.ct
            for axis, step in enumerate(strides):
                every = jnp.repeat(every, step, axis)
            yield "dy goes to every entry under the stride of {}", every
        for axis in range(self.right.ndim):
            for step in (1, -1):
                words = f"shifted by {step} along axis {axis} in {{}}: off by one"
                yield words, jnp.roll(self.right, step, axis)


def describe(eqn: Any) -> str:
    """A step in words: "tanh (mine.py line 7: y = np.tanh(x))"."""
    name = WORDS.get(eqn.primitive.name, eqn.primitive.name)
    place = source_place(eqn)
    if not place:
        return name
    path, line, _ = place
    text = linecache.getline(path, line).strip()
    return f"{name} ({Path(path).name} line {line}: {text[:60]})"


def _fitted(a, shape):
    """Summed along the axes of length 1 in `shape`; None if it does not fit."""
    if jnp.ndim(a) != len(shape):
        return None
    axes = tuple(i for i, n in enumerate(shape) if n == 1 != jnp.shape(a)[i])
    a = a.sum(axes, keepdims=True) if axes else a
    return a if jnp.shape(a) == shape else None
