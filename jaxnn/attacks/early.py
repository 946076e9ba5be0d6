"""PGD that leaves an image alone once it is fooled, and takes up the next one.

A network that is not robust is fooled on most images within a few steps of the forty.
A batch that waits for its last image does the rest for nothing; so here a fixed number
of slots hold the images under way, and whatever image is done makes room for one that
waits. Shapes stay fixed, it is one program, and the work is the steps really taken.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.attacks.core import is_finite, is_fooled, per_image
from jaxnn.attacks.moves import move, random_start


class Slots(NamedTuple):
    """The images under way, one a slot; row N marks a slot that is empty."""

    row: Array  # (S,) which image
    x: Array  # (S, ...) the image itself
    x_adv: Array  # (S, ...) where its attack stands
    looked: Array  # (S,) points rated so far
    done: Array  # (S,) fooled, out of steps, or empty
    fooled: Array  # (S,)


class Queue(NamedTuple):
    """All images: what was found, and how many of the order have been taken up."""

    x_adv: Array  # (N, ...)
    fooled: Array  # (N,)
    taken: Array  # ()


def first_fooling(
    start: Callable[[Array, Array], Array],
    move: Callable[[Array, Array, Array, Array], Array],
    rate: Callable[[Array, Array], tuple[Array, Array]],
    found: Queue,
    x: Array,
    steps: int,
    slots: int,
) -> Queue:
    """Walk from every image not yet fooled until it is, `steps` moves at most.

    Args:
      start: (rows (Q,), x (Q, ...)) -> the points where they start.
      move: (x_adv, x, gradient, rows), all (S, ...) -> the next points.
      rate: (x_adv, rows) -> gradient (S, ...) and whether each is fooled (S,).
      found: of earlier walks; `taken` is not used.
      x: images (N, ...).
      steps: moves of each image.
      slots: images under way at once, S.

    Returns:
      The first point that fools, for the others the last point rated.
    """
    count, slots = len(x), min(slots, len(x))
    share = max(1, slots // 8)  # slots refilled at once: a refill costs about a step
    order = jnp.argsort(found.fooled, stable=True)  # those still to fool come first
    order = jnp.concatenate([order, jnp.full(share, count)])
    waiting = (~found.fooled).sum()

    def save(queue, at):
        row = at.row
        return queue._replace(
            x_adv=queue.x_adv.at[row].set(at.x_adv, mode="drop"),
            fooled=queue.fooled.at[row].set(at.fooled, mode="drop"),
        )

    def refill(under_way, queue):
        (free,) = jnp.nonzero(under_way.done, size=share, fill_value=slots)
        leaving = jax.tree.map(lambda a: a.at[free].get(mode="clip"), under_way)
        row = jnp.where(free < slots, leaving.row, count)
        queue = save(queue, leaving._replace(row=row))
        rank = queue.taken + jnp.arange(share)
        row = jnp.where(rank < waiting, order.at[rank].get(mode="clip"), count)
        image = x.at[row].get(mode="clip")
        zeros = jnp.zeros(share, bool)
        entering = Slots(
            row, image, start(row, image), jnp.zeros(share, int), row == count, zeros
        )
        under_way = jax.tree.map(
            lambda a, b: a.at[free].set(b, mode="drop"), under_way, entering
        )
        return under_way, queue._replace(taken=queue.taken + share)

    def step(at):
        gradient, fooled = rate(at.x_adv, at.row)
        moved = move(at.x_adv, at.x, gradient, at.row)
        done = at.done | fooled | (at.looked == steps) | ~is_finite(moved)
        return at._replace(
            x_adv=jnp.where(per_image(done, moved), at.x_adv, moved),
            looked=at.looked + 1,
            fooled=jnp.where(at.done, at.fooled, fooled),
            done=done,
        )

    def turn(carry):
        under_way, queue = refill(*carry)

        def busy(at):
            return at.done.sum() < share

        return lax.while_loop(busy, step, under_way), queue

    empty = Slots(
        jnp.full(slots, count), x[:slots], x[:slots], jnp.zeros(slots, int),
        jnp.ones(slots, bool), jnp.zeros(slots, bool),
    )  # fmt: skip
    under_way, queue = lax.while_loop(
        lambda carry: carry[1].taken < waiting,
        turn,
        (empty, found._replace(taken=jnp.zeros((), int))),
    )
    return save(queue, lax.while_loop(lambda at: ~at.done.all(), step, under_way))


def pgd_until_fooled(
    model, x, y, loss, norm, targeted, box, steps, slots, epsilon, step_size, keys
):
    """`pgd` with early stop: x, then the FGSM point, then `steps` moves a start.

    `keys` has one key a restart, or is None: one walk from x. An image's start is drawn
    from its key and its row, so it does not depend on who shared the slots with it.
    """
    epsilon, step_size = (
        jnp.broadcast_to(jnp.asarray(v, x.dtype), len(x)) for v in (epsilon, step_size)
    )
    sign = -1 if targeted else 1

    def rate(x_adv, rows):
        labels = y.at[rows].get(mode="clip")
        _, dx, pred = model.value_and_gradient(x_adv, labels, loss)
        return dx, is_fooled(pred, labels, targeted)

    def walk(found, start, steps, size):
        def step(x_adv, x, dx, rows):
            length, limit = (
                per_image(v.at[rows].get(mode="clip"), x) for v in (size, epsilon)
            )
            return move(x_adv, x, dx, length, limit, sign, norm, box)

        return first_fooling(start, step, rate, found, x, steps, slots)

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
