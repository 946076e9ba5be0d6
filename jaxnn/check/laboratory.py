"""Each layer's derivative by every method.

All errors are differences from reverse mode in float64, along a random direction with
entries of size 1, as a share of the gradient's length: that is how large the derivative
along such a direction is.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import is_float
from jaxnn.check.methods import (
    central,
    complex_step,
    forward,
    inner,
    jumps,
    move,
    random_direction,
    suspects,
)
from jaxnn.check.probe import cast
from jaxnn.check.watch import Given, Seen, arguments, exact, singles
from jaxnn.errors import JaxnnError

WAYS = ("manual", "forward", "complex_step", "central")
POLICY = {"manual": 1e-12, "forward": 1e-12, "complex_step": 1e-12, "central": 1e-7}
"""Largest error that passes in float64."""

STEPS = (1e-5, 1e-6, 1e-4)  # of the differences; the best counts
UNLIKE = 1e-9  # a complex step further off than this is of no analytic function


@dataclass(frozen=True)
class MethodRow:
    """One layer's derivative along a random direction, by each method.

    Attributes:
      layer: such as "2 dense(5)".
      errors: method -> difference from reverse mode, None where it does not apply.
      kinks: entries of the gradient that jump within the step of the difference, which
        is worth little then.
      note: why the complex step does not apply.
    """

    layer: str
    errors: dict[str, float | None]
    kinks: int
    note: str = ""


def compare_methods(seen: list[Seen], seed: int = 0) -> tuple[MethodRow, ...]:
    """Each layer that was watched at work, by every method, in float64."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        layers = [_Slope(s, seed) for s in singles(seen)]

        def all_layers(inputs):
            return [f.ways(*one) for f, one in zip(layers, inputs, strict=True)]

        found = jax.jit(all_layers)([(f.at, f.v, f.rest) for f in layers])
        pairs = zip(layers, jax.device_get(found), strict=True)
        return tuple(f.row(ways) for f, ways in pairs)


class _Slope:
    """A layer's output times dy, one number, as a function of what is real in it."""

    def __init__(self, seen: Seen, seed: int):
        self.seen, self.place, self.note = seen, seen.place, ""
        given = cast(seen.given, np.float64)
        named = arguments((given.x, given.params))
        self.structure = jax.tree.structure((given.x, given.params))
        self.names = list(named)
        self.at = {name: a for name, a in named.items() if is_float(a)}
        fixed = {name: a for name, a in named.items() if not is_float(a)}
        self.rest = fixed, given.state, given.key, given.dy
        self.v = random_direction(self.at, seed)

    def given(self, at, rest) -> Given:
        fixed, state, key, dy = rest
        x, params = self.structure.unflatten([(at | fixed)[n] for n in self.names])
        return Given(params, state, x, key, dy)

    def value(self, at, rest):
        """The number, of real or of complex `at`."""
        params, state, x, key, dy = self.given(at, rest)
        if any(jnp.iscomplexobj(a) for a in at.values()):
            state = jax.tree.map(lambda a: a + 0j if is_float(a) else a, state)
        layer, train = self.place.layer, self.place.train
        y = layer.forward(params, state, x, key=key, train=train)[0]
        return inner(dy, y)

    def gradient(self, at, rest):
        """Its gradient by `jax.vjp`."""
        given = self.given(at, rest)
        return arguments(exact(self.place.layer, given, self.place.train))

    def ways(self, at, v, rest):
        """The derivative along v by each method, in one trace."""

        def f(at):
            return self.value(at, rest)

        ahead, behind = (
            self.gradient(move(at, sign * STEPS[0], v), rest) for sign in (1, -1)
        )
        found = {
            "gradient": self.gradient(at, rest),
            "forward": forward(f, at, v),
            "central": jnp.stack([central(f, at, v, h) for h in STEPS]),
            "kinks": jumps(ahead, behind),
        }
        try:
            found["complex_step"] = complex_step(f, at, v)
        except JaxnnError as error:
            self.note = str(error)
        return found

    def row(self, found) -> MethodRow:
        """The errors in numbers."""
        gradient, v = found["gradient"], jax.device_get(self.v)
        length = float(np.sqrt(sum(np.square(g).sum() for g in gradient.values())))
        slope = float(inner(gradient, v)) if gradient else 0.0

        def error(value):
            gap = float(np.abs(value - slope).min())
            return 0.0 if gap == 0 else gap / length if length else float("inf")

        errors: dict[str, float | None] = dict.fromkeys(WAYS) | {
            "manual": self._manual(gradient, length)
        }
        errors |= {way: error(found[way]) for way in ("forward", "central")}
        if "complex_step" in found:
            errors["complex_step"] = error(found["complex_step"])
            if errors["complex_step"] > UNLIKE:
                errors["complex_step"] = None
                names = suspects(lambda at: self.value(at, self.rest), self.at)
                self.note = f"not analytic: {', '.join(sorted(names)) or 'no idea why'}"
        return MethodRow(self.place.label, errors, int(found["kinks"]), self.note)

    def _manual(self, gradient, length) -> float:
        """By hand as recorded at work, against reverse mode there."""
        got, want = self.seen.got, self.seen.want
        if any(n not in got or got[n].shape != want[n].shape for n in gradient):
            return float("inf")
        v = jax.device_get(self.v)
        gap = abs(sum(float(((got[n] - want[n]) * v[n]).sum()) for n in gradient))
        return 0.0 if gap == 0 else gap / length if length else float("inf")
