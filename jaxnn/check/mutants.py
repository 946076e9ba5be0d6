"""What a backward pass would return if it were wrong in one place.

The forward is traced into its steps. On the way back each step hands a cotangent to
each of its operands; a mutant hands on something else there (nothing, minus it, without
the factor, by the mean ...). A wrong gradient that is a mutant's in every digit is
explained by it.
"""

import linecache
from collections.abc import Callable, Iterator, Sequence
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
from jaxnn.traced import QUICK, inner_program, scan_counts, source_place

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


class Mutant(NamedTuple):
    """One way to be wrong: which cotangent, the how-manieth change, in words.

    Or which number of the forward, and the value it has on the way back.
    """

    edge: int
    change: int
    words: str
    what: str = ""
    number: int | None = None
    value: float = 0.0


class Mutants:
    """All mutants of the gradient of a function at arguments such as `args`.

    Args:
      function: `args -> y`, JAX's alone.
      args: a tree of arrays.
    """

    def __init__(self, function: Callable, args: Any):
        self.traced, self.out = jax.make_jaxpr(function, return_shape=True)(args)
        self.structure = jax.tree.structure(args)
        self.names: dict[int, str] = {}  # of a variable: the argument or step it is
        paths = [path for path, _ in jax.tree.leaves_with_path(args)]
        for path, v in zip(paths, self.traced.jaxpr.invars, strict=True):
            # without "x/" or "params/", which stand for the kind of argument
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            self.names[id(v)] = name.partition("/")[2] or name
        self.edges: dict[tuple[int, int], int] = {}
        self.words: dict[int, list[str]] = {}
        self.whats: dict[int, str] = {}
        self.numbers: dict[tuple[int, int], int] = {}
        self.values: list[float] = []
        self.steps: list[Any] = []  # that each of the numbers stands in
        self.program: Callable | None = None
        self._count(self.traced.jaxpr)

    def __call__(self, mutants: Sequence[Mutant], args: Any, dy: Any) -> Any:
        """The gradient of sum(dy y), spoilt by all those mutants at once."""
        codes = np.zeros(max(len(self.edges), 1), np.int32)
        numbers = np.array([*self.values, 0.0])
        for mutant in mutants:
            if mutant.number is not None:
                numbers[mutant.number] = mutant.value
            else:
                codes[mutant.edge] = mutant.change
        every = (codes, numbers), args, dy
        if self.program is None:
            quick = {"compiler_options": QUICK}
            self.program = programs.ahead(None, self._gradient, *every, **quick)
        return self.program(*every)

    def literals(self) -> Iterator[Mutant]:
        """The forward's numbers left out, or taken as one minus themselves."""
        for i, (value, eqn) in enumerate(zip(self.values, self.steps, strict=True)):
            where = f"{value:g} in {describe(eqn)}"
            neutral = 1.0 if eqn.primitive.name in ("mul", "div") else 0.0
            words = f"the constant {where} is left out on the way back"
            yield Mutant(-1, 0, words, "", i, neutral)
            if 0 < value < 1 and value != 0.5:
                words = f"1 - {value:g} stands in the place of {where}"
                yield Mutant(-1, 0, words, "", i, 1 - value)

    def all(self, args: Any, dy: Any) -> Iterator[Mutant]:
        """Every mutant, the plain ones first."""
        self((), args, dy)  # traces, which finds the words
        most = max(map(len, self.words.values()), default=0)
        for change in range(most):
            for edge, words in self.words.items():
                if change < len(words):
                    what = self.whats[edge]
                    yield Mutant(edge, change + 1, words[change], what)

    def _count(self, jaxpr):
        """Number the edges, operands that take a cotangent, and the plain numbers."""
        for eqn in jaxpr.eqns:
            inner = inner_program(eqn)
            if inner is not None:
                self._count(inner.jaxpr)
                continue
            self.names |= {id(v): describe(eqn) for v in eqn.outvars}
            if len(eqn.outvars) > 1 or not is_float(eqn.outvars[0].aval):
                continue
            for i, v in enumerate(eqn.invars):
                if not is_float(v.aval):
                    continue
                if not isinstance(v, Literal) and v.aval.size <= LARGE:
                    self.edges[id(eqn), i] = len(self.edges)
                elif isinstance(v, Literal) and not np.shape(v.val):
                    self.numbers[id(eqn), i] = len(self.values)
                    self.values.append(float(v.val))
                    self.steps.append(eqn)

    def _gradient(self, codes, args, dy):
        flat = jax.tree.leaves(args)
        real = [i for i, a in enumerate(flat) if is_float(a)]

        def run(*some):
            every = list(flat)
            for i, a in zip(real, some, strict=True):
                every[i] = a
            return self._run(self.traced.jaxpr, self.traced.consts, every, codes)

        y, pull_back = jax.vjp(run, *(flat[i] for i in real))
        dys = zip(jax.tree.leaves(dy), y, strict=True)
        cotangents = pull_back([d.astype(a.dtype) for d, a in dys])
        found = [None] * len(flat)
        for i, d in zip(real, cotangents, strict=True):
            found[i] = d
        return jax.tree.unflatten(self.structure, found)

    def _run(self, jaxpr, consts, args, codes):
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        known |= dict(zip(jaxpr.invars, args, strict=True))

        def read(v):
            return v.val if isinstance(v, Literal) else known[v]

        for eqn in jaxpr.eqns:
            operands = [read(v) for v in eqn.invars]
            beside = self._beside(eqn, known)
            for i, v in enumerate(eqn.invars):
                if (id(eqn), i) in self.numbers:
                    number = codes[1][self.numbers[id(eqn), i]]
                    operands[i] = number.astype(v.aval.dtype)
            out = self._step(eqn, operands, codes, beside)
            known |= dict(zip(eqn.outvars, out, strict=True))
        return [read(v) for v in jaxpr.outvars]

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

    def _step(self, eqn, operands, codes, beside):
        inner = inner_program(eqn)
        if inner is not None and eqn.primitive.name == "scan":
            return self._scan(eqn, inner, operands, codes)
        if inner is not None:
            return self._run(inner.jaxpr, inner.consts, operands, codes)
        edges = [self.edges.get((id(eqn), i)) for i in range(len(operands))]
        if all(edge is None for edge in edges):
            out = eqn.primitive.bind(*operands, **eqn.params)
        else:
            own = jnp.array([codes[0][e] if e is not None else 0 for e in edges])
            names, arrays = [n for n, _ in beside], [a for _, a in beside]
            out = self._mutable(eqn, edges, names)(own, arrays, *operands)
        return out if eqn.primitive.multiple_results else [out]

    def _scan(self, eqn, inner, operands, codes):
        p = eqn.params
        n, carried = scan_counts(p)
        m = n + carried
        consts, start, rows = operands[:n], operands[n:m], operands[m:]

        def body(carry, row):
            every = [*consts, *carry, *row]
            out = self._run(inner.jaxpr, inner.consts, every, codes)
            return out[:carried], out[carried:]

        last, out = lax.scan(body, start, rows, p["length"], p["reverse"])
        return [*last, *out]

    def _mutable(self, eqn, edges, names):
        """The step with a backward pass that its code can spoil."""
        bind = partial(eqn.primitive.bind, **eqn.params)

        @jax.custom_vjp
        def step(own, arrays, *operands):
            del own, arrays
            return bind(*operands)

        def forward(own, arrays, *operands):
            out = bind(*operands)
            return out, (own, arrays, operands, out)

        def backward(kept, ct):
            own, arrays, operands, out = kept
            found: list[Any] = [None, None]
            for i, (edge, a) in enumerate(zip(edges, operands, strict=True)):
                if edge is not None:
                    beside = list(zip(names, arrays, strict=True))
                    way = _Way(eqn, i, operands, out, ct, bind, beside)
                    changes = list(way.changes())
                    self.whats[edge] = way.what
                    self.words[edge] = [words for words, _ in changes]
                    several = jnp.stack([way.right, *(a for _, a in changes)])
                    found.append(several[own[i]])
                elif is_float(jnp.asarray(a)):
                    found.append(jnp.zeros_like(a))
                else:
                    found.append(np.zeros(jnp.shape(a), jax.dtypes.float0))
            return tuple(found)

        step.defvjp(forward, backward)
        return step


class _Way:
    """The cotangent that one step hands to one of its operands, and wrong ones."""

    def __init__(self, eqn, i, operands, out, ct, bind, beside=()):
        self.eqn, self.i, self.operands, self.out, self.ct = eqn, i, operands, out, ct
        self.x, self.name, self.bind = operands[i], eqn.primitive.name, bind
        self.beside, self.what = beside, describe(eqn)
        self.right = self.pull(self.x, ct)

    def pull(self, x: Array, ct: Array, **others: Array) -> Array:
        """The right cotangent, with the operand at x."""
        operands = list(self.operands)
        if "other" in others:
            operands[1 - self.i] = others["other"]

        def along(x):
            operands[self.i] = x
            return self.bind(*operands)

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
            words = f"a mean where {self.what} needs a sum: divided by {count}"
            yield words, t / count
        special = {
            "mul": self._product, "div": self._quotient, "reduce_sum": self._sum,
            "max": self._choice, "min": self._choice, "select_n": self._choice,
            "clamp": self._choice, "reduce_max": self._maximum,
            "broadcast_in_dim": self._broadcast, "dot_general": self._matrix,
            "conv_general_dilated": self._convolution, "cumsum": self._running,
            "transpose": self._transpose, "slice": self._shifted,
            "pad": self._shifted, "dynamic_slice": self._shifted,
            "concatenate": self._shifted, "gather": self._shifted,
        } | dict.fromkeys(SMOOTH, self._smooth)  # fmt: skip
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
            n = self.eqn.params["y"]
            yield f"the factor {n} of {it} is left out", c * x ** (n - 1)
            yield "the exponent of {} is not lowered by one", c * n * x**n
            yield "the exponent of {} is lowered by two", c * n * x ** (n - 2)

    def _product(self):
        other, it = self.operands[1 - self.i], "the other factor of {}"
        yield f"{it} is left out", self.ct
        words = "the factors of {} are exchanged: it is multiplied by itself"
        yield words, self.ct * self.x
        yield f"it is divided by {it}", self.ct / other
        yield f"{it} is in it twice", self.right * other
        for name, array in self.beside:
            if array.shape == jnp.shape(other):
                yield self._instead(name), self.ct * array

    def _instead(self, name):
        return f"{name} stands in the place of the other factor of {{}}"

    def _quotient(self):
        a, b = self.operands
        if self.i == 0:
            yield "the divisor of {} is left out", self.ct
            yield "it is multiplied by the divisor of {}", self.ct * b
        else:
            yield "the divisor of {} is not squared", -self.ct * a / b
            yield "the dividend of {} is left out", -self.ct / b**2

    def _sum(self):
        count, axes = self.x.size / max(self.out.size, 1), self.eqn.params["axes"]
        if count != 1:
            words = f"a mean where {{}} needs a sum: divided by {count:g}"
            yield words, self.right / count
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
        axes = self.eqn.params["axes"]
        c, y = (jnp.expand_dims(a, axes) for a in (self.ct, self.out))
        c = jnp.broadcast_to(c, self.x.shape)
        words = "every entry that equals {} gets all of dy"
        yield words, jnp.where(self.x == y, c, 0)
        yield "every entry under {} gets dy, not the largest alone", c

    def _broadcast(self):
        kept, ct = self.eqn.params["broadcast_dimensions"], self.ct
        count = self.out.size / max(self.x.size, 1)
        if count == 1:
            return
        words = f"a mean where {{}} needs a sum: divided by {count:g}"
        yield words, self.right / count
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
        mistaken = [(self._instead(name), a) for name, a in self.beside]
        if other.ndim == 2 and other.shape[0] == other.shape[1]:
            mistaken += [("a transpose in {} is missing or too many", other.T)]
        itself = "the factors of {} are exchanged: it is multiplied by itself"
        mistaken += [(itself, self.x), (itself, self.x.T)]
        stale = "{} is with rows of another batch: a stale cache?"
        for words, changed in [*mistaken, (stale, jnp.roll(other, 1, 0))]:
            if changed.shape == other.shape:
                yield words, self.pull(self.x, self.ct, other=changed)

    def _convolution(self):
        kernel = list(self.eqn.params["dimension_numbers"].rhs_spec[2:])
        if self.i == 1:
            yield "the kernel of {} is flipped", jnp.flip(self.right, kernel)
        else:
            flipped = jnp.flip(self.operands[1], kernel)
            words = "the kernel of {} is not flipped"
            yield words, self.pull(self.x, self.ct, other=flipped)
        yield from self._shifted()

    def _running(self):
        forwards = jnp.cumsum(self.ct, self.eqn.params["axis"])
        yield "the gradient of {} runs forwards, not backwards", forwards

    def _transpose(self):
        yield "{} is not undone", self.ct

    def _shifted(self):
        strides = self.eqn.params.get("strides") or ()
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
