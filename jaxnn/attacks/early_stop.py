"""PGD that leaves an image alone once it is fooled, and takes up the next one.

A network that is not robust is fooled on most images within a few steps of the forty.
A batch that waits for its last image does the rest for nothing; so here a fixed number
of lanes hold the images under way, and whatever image is done makes room for one that
waits. Shapes stay fixed, it is one program, and the work is the steps really taken.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.attacks.core import Ball, Goal, budget, is_finite, per_image


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

    Starts are drawn from key and row, so that they do not depend on who shared the
    lanes; without a key the image itself is its start.
    """

    goal: Goal  # at the labels of all images (N,)
    ball: Ball  # around all images (N, ...)
    epsilon: Array  # of each image's ball (N,)
    size: Array  # of each image's steps (N,)
    steps: int  # moves of each image
    lanes: int  # images under way at once, L
    key: Any = None

    def run(self, found: Queue) -> Queue:
        """The first point that fools, for the others the last point rated.

        Of `found`, what earlier walks left, `taken` is not used.
        """
        x = self.ball.x
        count, lanes = len(x), min(self.lanes, len(x))
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
            jnp.full(lanes, count), x[:lanes], x[:lanes],
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
        x = start = _of(self.ball.x, row)
        if self.key is not None:
            start = jax.vmap(self._drawn)(row, x, _of(self.epsilon, row))
        no = jnp.zeros(len(row), bool)
        looked = jnp.zeros(len(row), int)
        return Lanes(row, x, start, looked, row == len(self.ball.x), no)

    def _drawn(self, row, image, epsilon):
        ball = self.ball._replace(x=image[None], epsilon=epsilon)
        return ball.draw(jax.random.fold_in(self.key, row))[0]

    def _step(self, at):
        """Rate every lane, and move those that are not done."""
        goal = self.goal._replace(y=_of(self.goal.y, at.row))
        _, dx, fooled = goal.value_and_gradient(at.x_adv)
        size, epsilon = (
            per_image(_of(v, at.row), at.x) for v in (self.size, self.epsilon)
        )
        moved = self.ball._replace(x=at.x, epsilon=epsilon).move(at.x_adv, dx, size)
        done = at.done | fooled | (at.looked == self.steps) | ~is_finite(moved)
        return at._replace(
            x_adv=jnp.where(per_image(done, moved), at.x_adv, moved),
            looked=at.looked + 1,
            fooled=jnp.where(at.done, at.fooled, fooled),
            done=done,
        )


def _of(a: Array, rows: Array) -> Array:
    """The entries of those rows; an empty lane's is the last."""
    return a.at[rows].get(mode="clip")


def pgd_until_fooled(
    goal: Goal, ball: Ball, step_size: Any, steps: int, keys: Any, lanes: int
) -> Array:
    """`pgd` with early stop: x, then the FGSM point, then `steps` moves a start.

    `keys` has one key a restart, or is None: one walk from x.
    """
    x = ball.x
    epsilon, size = (
        jnp.broadcast_to(v.reshape(-1), len(x))
        for v in (ball.epsilon, budget(step_size, x))
    )
    walks = Walks(goal, ball, epsilon, size, steps, lanes)
    found = Queue(x, jnp.zeros(len(x), bool), jnp.zeros((), int))
    found = walks._replace(size=epsilon, steps=1).run(found)  # x and FGSM's point
    if keys is None:
        return walks.run(found).x_adv

    def restart(found, key):
        return walks._replace(key=key).run(found), None

    return lax.scan(restart, found, keys)[0].x_adv
