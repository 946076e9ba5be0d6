"""Training on attacked images: the attack is made in the step, by the same backwards.

The attacks here are short and keep their last point; `jaxnn.attacks` are the ones to
measure with. They look at the network in evaluation mode and never touch its state.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.attacks.classifier import Classifier
from jaxnn.attacks.core import Ball, Box, clip
from jaxnn.defenses.core import Epsilon, budget_at, check_settings, mixed
from jaxnn.errors import require
from jaxnn.programs import remembered
from jaxnn.rules import log_softmax
from jaxnn.train.step import Defense, value_and_gradients


def _climb(gradient, x_adv, ball, size, steps) -> Array:
    """`steps` steps up the `gradient` (a function of the images)."""

    def once(_, x_adv):
        return ball.move(x_adv, gradient(x_adv), size)

    if steps == 1:
        return once(0, x_adv)
    return lax.fori_loop(0, steps, once, x_adv)


@remembered
def pgd(
    epsilon: Epsilon, steps: int = 7, step_size: float | None = None, *,
    box: Box = (0.0, 1.0),
) -> Defense:  # fmt: skip
    """Train on the images that PGD finds within `epsilon` (Linf), and on no others.

    Args:
      epsilon: budget in pixel units of [0, 1], or `ramp(...)`.
      steps: gradient steps from a random start; each costs about two thirds of a
        training step.
      step_size: as a share of epsilon; None is 2.5 / steps.
      box: limits of a pixel, None for none.

    Source: Madry et al. 2018, arXiv 1706.06083.
    """
    check_settings("pgd", epsilon, steps=steps)
    share = 2.5 / steps if step_size is None else step_size
    return _on_attacked(f"pgd-{steps}", epsilon, steps, share, box, start_box=box)


@remembered
def fgsm_rs(
    epsilon: Epsilon, step_size: float = 1.25, *, box: Box = (0.0, 1.0)
) -> Defense:
    """Train on one signed step from a random start: nearly PGD, at two steps' cost.

    `step_size` is a share of epsilon; a larger one fails by catastrophic overfitting
    (see `find_collapse`). The start is not clipped to the box, only the step's end:
    from a clipped start all background pixels move alike, and the same recipe overfits.

    Source: Wong, Rice, Kolter 2020, arXiv 2001.03994, and their program.
    """
    check_settings("fgsm_rs", epsilon)
    return _on_attacked("fgsm-rs", epsilon, 1, step_size, box, start_box=None)


def _on_attacked(name, epsilon, steps, share, box, start_box) -> Defense:
    def gradients(net, loss, params, state, x, y, *, key, step, memory):
        limit = budget_at(epsilon, step, x.dtype)
        key_start, key_net = jax.random.split(key)
        model = Classifier(net, params, state)

        def uphill(x_adv):
            return model.value_and_gradient(x_adv, y, loss)[1]

        with jax.named_scope("attack"):
            x_adv = Ball(x, limit, "linf", start_box).draw(key_start)
            ball = Ball(x, limit, "linf", box)
            x_adv = _climb(uphill, x_adv, ball, share * limit, steps)
        value, _, dparams, state = value_and_gradients(
            net, loss, params, state, x_adv, y, key_net
        )
        return value, dparams, state, memory

    return Defense(name, gradients, attack_steps=steps)


@remembered
def fgsm_mix(epsilon: Epsilon, alpha: float = 0.5, *, box: Box = (0.0, 1.0)) -> Defense:
    """alpha J(x) + (1 - alpha) J(x + epsilon sign dJ/dx): Goodfellow's own defense.

    It learns to hide its gradient from the one step it is trained on: measure it by
    PGD. `box=None` does not clip, as in the original.

    Source: Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572, section 6.
    """
    check_settings("fgsm_mix", epsilon)
    require(0 <= alpha <= 1, "fgsm_mix", "alpha", alpha, "a share in [0, 1]")

    def gradients(net, loss, params, state, x, y, *, key, step, memory):
        limit = budget_at(epsilon, step, x.dtype)
        keys = jax.random.split(key)
        clean, dx, dclean, state = value_and_gradients(
            net, loss, params, state, x, y, keys[0]
        )
        x_adv = Ball(x, limit, "linf", box).move(x, dx, limit)
        attacked, _, dattacked, state = value_and_gradients(
            net, loss, params, state, x_adv, y, keys[1]
        )
        both = mixed(alpha, (clean, dclean), (attacked, dattacked))
        return *both, state, memory

    return Defense("fgsm-mix", gradients, attack_steps=1)


@remembered
def trades(
    epsilon: Epsilon, steps: int = 10, step_size: float | None = None,
    beta: float = 1.0, *, box: Box = (0.0, 1.0),
) -> Defense:  # fmt: skip
    """J(x) + beta KL(p(x) || p(x')): be right, and say the same nearby.

    x' maximizes that divergence within `epsilon` (Linf). The gradient goes through both
    p(x) and p(x'), as in the authors' program. The network must end in logits.

    Args:
      epsilon: budget in pixel units of [0, 1], or `ramp(...)`.
      steps: gradient steps towards x'.
      step_size: as a share of epsilon; None is 2.5 / steps.
      beta: weight of the second term; 1 and 6 are the paper's.
      box: limits of a pixel, None for none.

    Source: Zhang et al. 2019, arXiv 1901.08573.
    """
    check_settings("trades", epsilon, steps=steps)
    require(beta >= 0, "trades", "beta", beta, ">= 0")
    share = 2.5 / steps if step_size is None else step_size

    def gradients(net, loss, params, state, x, y, *, key, step, memory):
        limit = budget_at(epsilon, step, x.dtype)
        key_start, key_clean, key_near = jax.random.split(key, 3)
        steady, _, _ = net.forward(params, state, x, train=False)

        def uphill(x_adv):
            pred, _, cache = net.forward(params, state, x_adv, train=False)
            return net.backward(cache, divergence(steady, pred)[2])[0]

        with jax.named_scope("attack"):
            start = x + 1e-3 * jax.random.normal(key_start, x.shape, x.dtype)
            ball = Ball(x, limit, "linf", box)
            x_adv = _climb(uphill, start, ball, share * limit, steps)
        clean, state, cache = net.forward(params, state, x, key=key_clean, train=True)
        near, state, cache_near = net.forward(
            params, state, x_adv, key=key_near, train=True
        )
        value, dclean = loss(clean, y)
        apart, dclean_apart, dnear = divergence(clean, near)
        scale = beta / len(x)
        _, dparams = net.backward(cache, dclean + scale * dclean_apart)
        _, dparams_near = net.backward(cache_near, scale * dnear)
        dparams = jax.tree.map(jnp.add, dparams, dparams_near)
        return value + scale * apart.sum(), dparams, state, memory

    return Defense("trades", gradients, attack_steps=steps)


def divergence(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """KL(softmax a || softmax b) of each row, and its gradients for a and b.

    a, b (B, N) -> (B,), da and db (B, N). With p = softmax a, q = softmax b:
    KL = sum p (log p - log q), db = q - p, da = p ((log p - log q) - KL).
    """
    log_p, log_q = log_softmax.fwd(a)[0], log_softmax.fwd(b)[0]
    p, gap = jnp.exp(log_p), log_p - log_q
    gap = jnp.where(p > 0, gap, 0)  # 0 log 0 is 0
    value = (p * gap).sum(-1)
    return value, p * (gap - value[:, None]), jnp.exp(log_q) - p


@remembered
def free(epsilon: Epsilon, replays: int = 4, *, box: Box = (0.0, 1.0)) -> Defense:
    """Each batch several times; the way back that trains also moves the attack.

    The perturbation is kept from step to step, also to the next batch; every step
    costs what a plain one costs and the input's gradient. Train for fewer epochs: one
    goes through the data `replays` times.

    Source: Shafahi et al. 2019, arXiv 1904.12843.
    """
    check_settings("free", epsilon, replays=replays)

    def gradients(net, loss, params, state, x, y, *, key, step, memory):
        limit = budget_at(epsilon, step, x.dtype)
        x_adv = x + clip(memory, -limit, limit)  # a ramp may start the run below it
        x_adv = x_adv if box is None else clip(x_adv, *box)
        value, dx, dparams, state = value_and_gradients(
            net, loss, params, state, x_adv, y, key
        )
        moved = clip(memory + limit * jnp.sign(dx), -limit, limit)
        return value, dparams, state, moved

    return Defense(f"free-{replays}", gradients, jnp.zeros, replays, 1)
