"""PGD that leaves an image alone once it is fooled, and takes up the next one.

A network that is not robust is fooled on most images within a few steps of the forty.
A batch that waits for its last image does the rest for nothing; so here a fixed number
of lanes hold the images under way, and whatever image is done makes room for one that
waits. Shapes stay fixed, it is one program, and the work is the steps really taken.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.attacks.core import (
    Goal,
    is_finite,
    move,
    per_image,
    random_start,
)


class Lanes(NamedTuple):
    """The images under way, one a lane; row N marks a lane that is empty."""

    row: Array  # (L,) which image
    x: Array  # (L, ...) the image itself
    x_adv: Array  # (L, ...) where its attack stands
    looked: Array  # (L,) points rated so far
    done: Array  # (L,) fooled, out of steps, or empty
    fooled: Array  # (L,)


class Queue(NamedTuple):
    """All images: what was found, and how many of the order have been taken up."""

    x_adv: Array  # (N, ...)
    fooled: Array  # (N,)
    taken: Array  # ()

    def keep(self, lanes: Lanes) -> "Queue":
        """Keep what stands in the lanes; empty ones have nothing to keep."""
        return self._replace(
            x_adv=self.x_adv.at[lanes.row].set(lanes.x_adv, mode="drop"),
            fooled=self.fooled.at[lanes.row].set(lanes.fooled, mode="drop"),
        )


class Walks(NamedTuple):
    """From every image not yet fooled, until it is: `steps` moves at most.

    Attributes:
      start: (rows (Q,), x (Q, ...)) -> the points where they start.
      move: (x_adv, x, gradient, rows), all (L, ...) -> the next points.
      rate: (x_adv, rows) -> gradient (L, ...) and whether each is fooled (L,).
      x: images (N, ...).
      steps: moves of each image.
      lanes: images under way at once, L.
    """

    start: Callable[[Array, Array], Array]
    move: Callable[[Array, Array, Array, Array], Array]
    rate: Callable[[Array, Array], tuple[Array, Array]]
    x: Array
    steps: int
    lanes: int

    def run(self, found: Queue) -> Queue:
        """The first point that fools, for the others the last point rated.

        Of `found`, what earlier walks left, `taken` is not used.
        """
        count, lanes = len(self.x), min(self.lanes, len(self.x))
        refilled = max(1, lanes // 8)  # at once: a refill costs about a step
        order = jnp.argsort(found.fooled, stable=True)  # those still to fool come first
        order = jnp.concatenate([order, jnp.full(refilled, count)])
        waiting = (~found.fooled).sum()

        def refill(under_way, queue):
            (free,) = jnp.nonzero(under_way.done, size=refilled, fill_value=lanes)
            leaving = jax.tree.map(lambda a: a.at[free].get(mode="clip"), under_way)
            row = jnp.where(free < lanes, leaving.row, count)
            queue = queue.keep(leaving._replace(row=row))
            rank = queue.taken + jnp.arange(refilled)
            row = jnp.where(rank < waiting, order.at[rank].get(mode="clip"), count)
            under_way = jax.tree.map(
                lambda a, b: a.at[free].set(b, mode="drop"), under_way, self._enter(row)
            )
            return under_way, queue._replace(taken=queue.taken + refilled)

        def turn(carry):
            under_way, queue = refill(*carry)

            def busy(at):
                return at.done.sum() < refilled

            return lax.while_loop(busy, self._step, under_way), queue

        empty = Lanes(
            jnp.full(lanes, count), self.x[:lanes], self.x[:lanes],
            jnp.zeros(lanes, int), jnp.ones(lanes, bool), jnp.zeros(lanes, bool),
        )  # fmt: skip
        under_way, queue = lax.while_loop(
            lambda carry: carry[1].taken < waiting,
            turn,
            (empty, found._replace(taken=jnp.zeros((), int))),
        )
        last = lax.while_loop(lambda at: ~at.done.all(), self._step, under_way)
        return queue.keep(last)

    def _enter(self, row):
        """Lanes of the images `row`, at their starts."""
        image = self.x.at[row].get(mode="clip")
        no = jnp.zeros(len(row), bool)
        return Lanes(
            row, image, self.start(row, image), jnp.zeros(len(row), int),
            row == len(self.x), no,
        )  # fmt: skip

    def _step(self, at):
        """Rate every lane, and move those that are not done."""
        gradient, fooled = self.rate(at.x_adv, at.row)
        moved = self.move(at.x_adv, at.x, gradient, at.row)
        done = at.done | fooled | (at.looked == self.steps) | ~is_finite(moved)
        return at._replace(
            x_adv=jnp.where(per_image(done, moved), at.x_adv, moved),
            looked=at.looked + 1,
            fooled=jnp.where(at.done, at.fooled, fooled),
            done=done,
        )


def pgd_until_fooled(
    model, x, y, keys, lanes, *, epsilon, step_size, steps, norm, loss, targeted, box
):
    """`pgd` with early stop: x, then the FGSM point, then `steps` moves a start.

    `keys` has one key a restart, or is None: one walk from x. An image's start is drawn
    from its key and its row, so it does not depend on who shared the lanes with it.
    """
    epsilon, step_size = (
        jnp.broadcast_to(jnp.asarray(v, x.dtype), len(x)) for v in (epsilon, step_size)
    )

    def rate(x_adv, rows):
        goal = Goal(model, y.at[rows].get(mode="clip"), loss, targeted)
        _, dx, pred = model.value_and_gradient(x_adv, goal.y, loss)
        return -dx if targeted else dx, goal.fooled(pred)

    def walk(found, start, steps, size):
        def step(x_adv, x, dx, rows):
            length, limit = (
                per_image(v.at[rows].get(mode="clip"), x) for v in (size, epsilon)
            )
            return move(x_adv, x, dx, length, limit, norm, box)

        return Walks(start, step, rate, x, steps, lanes).run(found)

    def restart(found, key):
        def start(rows, images):
            def one(row, image):
                own, limit = jax.random.fold_in(key, row), epsilon.at[row].get()
                return random_start(own, image[None], limit, norm, box)[0]

            return jax.vmap(one)(rows, images)

        return walk(found, start, steps, step_size), None

    def from_x(_, images):
        return images

    found = Queue(x, jnp.zeros(len(x), bool), jnp.zeros((), int))
    found = walk(found, from_x, 1, epsilon)  # x itself and FGSM's point
    if keys is None:
        return walk(found, from_x, steps, step_size).x_adv
    return lax.scan(restart, found, keys)[0].x_adv
