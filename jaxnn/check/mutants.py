"""What a backward pass would return if it were wrong in one place.

The forward is traced into its steps. On the way back each step hands a cotangent to
each of its operands; a mutant hands on something else there (nothing, minus it, without
the factor, by the mean ...). A wrong gradient that is a mutant's in every digit is
explained by it.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Literal

from jaxnn.arrays import is_float

BESIDE = 8  # arrays that are tried in the place of an operand
INLINED = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # where primitives keep a function
LARGE = 1_000_000  # entries of an operand beyond which nothing is tried
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
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
LEFT_OUT = "the path through {} is left out"


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
        traced, self.out = jax.make_jaxpr(function, return_shape=True)(args)
        self.structure = jax.tree.structure(args)
        self.names: dict[int, str] = {}  # of a variable: the argument or step it is
        paths = [path for path, _ in jax.tree.leaves_with_path(args)]
        for path, v in zip(paths, traced.jaxpr.invars, strict=True):
            # without "x/" or "params/", which stand for the kind of argument
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            self.names[id(v)] = name.partition("/")[2] or name
        self.traced = traced
        self.edges: dict[tuple[int, int], int] = {}
        self.words: dict[int, list[str]] = {}
        self.whats: dict[int, str] = {}
        self.numbers: dict[tuple[int, int], int] = {}
        self.values: list[float] = []
        self.steps: list[Any] = []  # that each of the numbers stands in
        self._count(traced.jaxpr)
        self.program = jax.jit(self._gradient, compiler_options=QUICK)

    def __call__(self, mutants: Sequence[Mutant], args: Any, dy: Any) -> Any:
        """The gradient of sum(dy y), spoilt by all those mutants at once."""
        codes = np.zeros(max(len(self.edges), 1), np.int32)
        numbers = np.array([*self.values, 0.0])
        for mutant in mutants:
            if mutant.number is not None:
                numbers[mutant.number] = mutant.value
            else:
                codes[mutant.edge] = mutant.change
        return self.program((codes, numbers), args, dy)

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
        for eqn in jaxpr.eqns:
            inner = _inner(eqn)
            if inner is not None:
                self._count(inner.jaxpr)
                continue
            self.names |= {id(v): describe(eqn) for v in eqn.outvars}
            if len(eqn.outvars) > 1 or not is_float(eqn.outvars[0].aval):
                continue
            for i, v in enumerate(eqn.invars):
                if isinstance(v, Literal) and is_float(v.aval) and not np.shape(v.val):
                    self.numbers[id(eqn), i] = len(self.values)
                    self.values.append(float(v.val))
                    self.steps.append(eqn)
                small = v.aval.size <= LARGE
                if not isinstance(v, Literal) and is_float(v.aval) and small:
                    self.edges[id(eqn), i] = len(self.edges)

    def _gradient(self, codes, args, dy):
        flat = jax.tree.leaves(args)
        real = [i for i, a in enumerate(flat) if is_float(a)]

        def run(*some):
            every = list(flat)
            for i, a in zip(real, some, strict=True):
                every[i] = a
            return self._run(self.traced.jaxpr, self.traced.consts, every, codes)

        y, pull_back = jax.vjp(run, *(flat[i] for i in real))
        cotangents = pull_back([d.astype(a.dtype) for d, a in zip(
            jax.tree.leaves(dy), y, strict=True)])  # fmt: skip
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
        inner = _inner(eqn)
        if inner is not None and eqn.primitive.name == "scan":
            return self._scan(eqn, inner, operands, codes)
        if inner is not None:
            return self._run(inner.jaxpr, inner.consts, operands, codes)
        edges = [self.edges.get((id(eqn), i)) for i in range(len(operands))]
        if all(edge is None for edge in edges):
            out = eqn.primitive.bind(*operands, **eqn.params)
            return out if eqn.primitive.multiple_results else [out]
        own = jnp.array([codes[0][e] if e is not None else 0 for e in edges])
        names, arrays = [n for n, _ in beside], [a for _, a in beside]
        out = self._mutable(eqn, edges, names)(own, arrays, *operands)
        return out if eqn.primitive.multiple_results else [out]

    def _scan(self, eqn, inner, operands, codes):
        p = eqn.params
        n, m = p["num_consts"], p["num_consts"] + p["num_carry"]
        consts, start, rows = operands[:n], operands[n:m], operands[m:]

        def body(carry, row):
            every = [*consts, *carry, *row]
            out = self._run(inner.jaxpr, inner.consts, every, codes)
            return out[: p["num_carry"]], out[p["num_carry"] :]

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
            for i, edge in enumerate(edges):
                if edge is None:
                    found.append(_nothing(operands[i]))
                    continue
                way = _Way(eqn, i, operands, out, ct, bind)
                way.beside = list(zip(names, arrays, strict=True))
                changes = list(way.changes())
                self.whats[edge] = way.what
                self.words[edge] = [words for words, _ in changes]
                several = jnp.stack([way.right, *(a for _, a in changes)])
                found.append(several[own[i]])
            return tuple(found)

        step.defvjp(forward, backward)
        return step


class _Way:
    """The cotangent that one step hands to one of its operands, and wrong ones."""

    def __init__(self, eqn, i, operands, out, ct, bind):
        self.eqn, self.i, self.operands, self.out, self.ct = eqn, i, operands, out, ct
        self.x, self.name, self.bind = operands[i], eqn.primitive.name, bind
        self.right = self.pull(self.x, ct)
        self.beside: list[tuple[str, Array]] = []
        self.what = describe(eqn)

    def pull(self, x: Array, ct: Array) -> Array:
        """The right cotangent, with the operand at x."""
        others = list(self.operands)

        def along(x):
            others[self.i] = x
            return self.bind(*others)

        return jax.vjp(along, x)[1](ct)[0]

    def changes(self) -> Iterator[tuple[str, Array]]:
        """(words, cotangent) of each change; every one has the shape of the operand."""
        t, what = self.right, self.what
        yield LEFT_OUT.format(what), 0 * t
        yield f"the sign of the path through {what} is wrong", -t
        yield f"the path through {what} is counted twice", 2 * t
        yield f"the path through {what} is counted half: is a factor 2 missing?", t / 2
        count = self.ct.size // max(t.size, 1)
        if self.ct.ndim == t.ndim and count > 1 and self.name in ELEMENTWISE:
            yield f"a mean where {what} needs a sum: divided by {count}", t / count
        for words, a in self._special():
            a = _fitted(a, t.shape)
            if a is not None:
                yield words, a.astype(t.dtype)

    def _special(self):
        kind = {
            "mul": self._product, "div": self._quotient, "reduce_sum": self._sum,
            "max": self._choice, "min": self._choice, "select_n": self._choice,
            "clamp": self._choice, "reduce_max": self._maximum,
            "broadcast_in_dim": self._broadcast, "dot_general": self._matrix,
            "conv_general_dilated": self._convolution, "cumsum": self._running,
            "transpose": self._transpose,
        }.get(self.name)  # fmt: skip
        if self.name in SMOOTH:
            yield from self._smooth()
        elif kind is not None:
            yield from kind()
        elif self.name in ("slice", "pad", "dynamic_slice", "concatenate", "gather"):
            yield from self._shifted()

    def _smooth(self):
        x, y, c, what = self.x, self.out, self.ct, self.what
        slope = self.pull(x, jnp.ones_like(y))
        yield f"the derivative of {what} is left out: dy passes as it is", c
        yield (
            f"the derivative of {what} is taken at its output, not its input",
            c * self.pull(y, jnp.ones_like(y)),
        )
        yield f"{what} stands in the place of its derivative", c * y
        yield f"it is divided by the derivative of {what}, not multiplied", c / slope
        yield f"the derivative of {what} is squared: it is counted twice", c * slope**2
        if self.name == "tanh":
            yield f"the derivative of {what} is 1 - y^2, not 1 - x^2", c * (1 - x * x)
            yield f"the derivative of {what} is 1 - y^2, not 1 - y", c * (1 - y)
        if self.name == "logistic":
            yield (
                f"the derivative of {what} is y (1 - y), not x (1 - x)",
                c * x * (1 - x),
            )
            yield f"the derivative of {what} is y (1 - y), not 1 - y", c * (1 - y)
        if self.name == "log":
            yield f"the derivative of {what} is 1 / x, not x", c * x
        if self.name == "exp":
            yield f"the derivative of {what} is y = exp(x), not x", c * x
        if self.name in ("sqrt", "rsqrt"):
            yield (
                f"the factor 1/2 of the derivative of {what} is left out",
                2 * self.right,
            )
            for n in (-2, -1, 1, 2):
                yield (
                    f"the derivative of {what} has a power of it too many or too few",
                    self.right * y**n,
                )
        if self.name == "integer_pow":
            n = self.eqn.params["y"]
            yield (
                f"the factor {n} of the derivative of {what} is left out",
                c * x ** (n - 1),
            )
            yield f"the exponent of {what} is not lowered by one", c * n * x**n
            yield f"the exponent of {what} is lowered by two", c * n * x ** (n - 2)

    def _product(self):
        other = self.operands[1 - self.i]
        yield f"the other factor of {self.what} is left out", self.ct
        yield (
            f"the factors of {self.what} are exchanged: it is multiplied by itself",
            self.ct * self.x,
        )
        yield f"it is divided by the other factor of {self.what}", self.ct / other
        yield f"the other factor of {self.what} is in it twice", self.right * other
        for name, array in self.beside:
            if array.shape == jnp.shape(other):
                yield (
                    f"{name} stands in the place of the other factor of {self.what}",
                    self.ct * array,
                )

    def _quotient(self):
        a, b = self.operands
        if self.i == 0:
            yield f"the divisor of {self.what} is left out", self.ct
            yield f"it is multiplied by the divisor of {self.what}", self.ct * b
        else:
            yield f"the divisor of {self.what} is not squared", -self.ct * a / b
            yield f"the dividend of {self.what} is left out", -self.ct / b**2

    def _sum(self):
        count = self.x.size / max(self.out.size, 1)
        if count != 1:
            yield (
                f"a mean where {self.what} needs a sum: divided by {count:g}",
                (self.right / count),
            )
            yield (
                f"a sum where {self.what} is a mean: {count:g} times too large",
                (self.right * count),
            )
        yield from self._wrong_axis()

    def _wrong_axis(self):
        axes = self.eqn.params["axes"]
        if len(axes) == 1 and self.x.ndim > 1:
            for axis in range(self.x.ndim):
                if self.x.shape[axis] == self.x.shape[axes[0]] and axis != axes[0]:
                    yield (
                        f"the gradient of {self.what} goes along axis {axis}, not "
                        f"{axes[0]}: are keepdims missing?",
                        jnp.swapaxes(self.right, axis, axes[0]),
                    )

    def _choice(self):
        yield f"the mask of {self.what} is the wrong way round", self.ct - self.right
        yield f"the mask of {self.what} is left out: dy passes everywhere", self.ct

    def _maximum(self):
        axes = self.eqn.params["axes"]
        c, y = (jnp.expand_dims(a, axes) for a in (self.ct, self.out))
        c = jnp.broadcast_to(c, self.x.shape)
        yield (
            f"every entry that equals {self.what} gets all of dy",
            jnp.where(self.x == y, c, 0),
        )
        yield f"every entry under {self.what} gets dy, not the largest alone", c

    def _broadcast(self):
        kept = self.eqn.params["broadcast_dimensions"]
        count = self.out.size / max(self.x.size, 1)
        if count == 1:
            return
        yield (
            f"a mean where {self.what} needs a sum: divided by {count:g}",
            (self.right / count),
        )
        lost = [a for a in range(self.out.ndim) if a not in kept]
        for axis in lost[:1]:
            for row, name in ((0, "first"), (-1, "last")):
                alone = (
                    jnp.zeros_like(self.ct)
                    .at[_row(axis, row)]
                    .set(self.ct[_row(axis, row)])
                )
                yield (
                    f"the {name} index of axis {axis} alone: a sum over it is missing",
                    (self.pull(self.x, alone)),
                )
            for other in kept:
                if self.ct.shape[other] == self.ct.shape[axis]:
                    yield (
                        f"summed over the wrong axis: {other}, not {axis}",
                        self.pull(self.x, jnp.swapaxes(self.ct, axis, other)),
                    )

    def _matrix(self):
        other = self.operands[1 - self.i]
        mistaken = [
            (f"{name} stands in the place of the other factor of {self.what}", a)
            for name, a in self.beside
        ]
        for words, changed in (
            *mistaken,
            (f"a transpose in {self.what} is missing or too many", _transposed(other)),
            (
                f"{self.what} is with rows of another batch: a stale cache?",
                (jnp.roll(other, 1, 0)),
            ),
        ):
            if changed is None or changed.shape != other.shape:
                continue
            operands = list(self.operands)
            operands[1 - self.i] = changed
            way = _Way(self.eqn, self.i, operands, self.out, self.ct, self.bind)
            yield words, way.right

    def _convolution(self):
        dims = self.eqn.params["dimension_numbers"]
        kernel = list(dims.rhs_spec[2:])
        what = self.what
        if self.i == 1:
            yield f"the kernel of {what} is flipped", jnp.flip(self.right, kernel)
        else:
            operands = [self.operands[0], jnp.flip(self.operands[1], kernel)]
            way = _Way(self.eqn, 0, operands, self.out, self.ct, self.bind)
            yield f"the kernel of {what} is not flipped", way.right
        yield from self._shifted()

    def _running(self):
        axis = self.eqn.params["axis"]
        yield (
            f"the gradient of {self.what} runs forwards, not backwards",
            jnp.cumsum(self.ct, axis),
        )

    def _transpose(self):
        yield f"{self.what} is not undone", self.ct

    def _shifted(self):
        strides = self.eqn.params.get("strides") or ()
        if self.name == "slice" and len(strides) == self.right.ndim:
            every = self.ct
            for axis, step in enumerate(strides):
                every = jnp.repeat(every, step, axis)
            yield f"dy goes to every entry under the stride of {self.what}", every
        for axis in range(self.right.ndim):
            for step in (1, -1):
                yield (
                    f"shifted by {step} along axis {axis} in {self.what}: off by one",
                    jnp.roll(self.right, step, axis),
                )


def describe(eqn: Any) -> str:
    """A step in words: "tanh (mine.py line 7: y = np.tanh(x))"."""
    name = WORDS.get(eqn.primitive.name, eqn.primitive.name)
    where = source_line(eqn)
    return f"{name} ({where})" if where else name


def source_line(eqn: Any) -> str:
    """The line of the file that a step is from, "" if it is not known."""
    import linecache
    from pathlib import Path

    try:
        from jax._src import source_info_util

        frame = source_info_util.user_frame(eqn.source_info.traceback)
    except (ImportError, AttributeError, TypeError):
        return ""  # this JAX keeps it elsewhere
    if frame is None:
        return ""
    path, line = frame.file_name, frame.start_line
    text = linecache.getline(path, line).strip()
    return f"{Path(path).name} line {line}: {text[:60]}"


def _inner(eqn) -> ClosedJaxpr | None:
    """The function that a step calls, None for a plain one."""
    if eqn.primitive.name in ("while", "cond", "pallas_call", "reduce", "custom_root"):
        return None
    for key in INLINED:
        found = eqn.params.get(key)
        if isinstance(found, ClosedJaxpr):
            return found
        if found is not None and hasattr(found, "eqns"):
            return ClosedJaxpr(found, ())
    return None


def _nothing(a):
    if is_float(jnp.asarray(a)):
        return jnp.zeros_like(a)
    return np.zeros(jnp.shape(a), jax.dtypes.float0)


def _fitted(a, shape):
    """Summed along the axes of length 1 in `shape`; None if it does not fit."""
    if jnp.ndim(a) != len(shape):
        return None
    axes = tuple(i for i, n in enumerate(shape) if n == 1 != jnp.shape(a)[i])
    a = a.sum(axes, keepdims=True) if axes else a
    return a if jnp.shape(a) == shape else None


def _row(axis, index):
    return (*[slice(None)] * axis, index)


def _transposed(a):
    return a.T if a.ndim == 2 and a.shape[0] == a.shape[1] else None
