"""Training for a certificate: the loss of the worst outputs that bounds allow."""

from collections.abc import Callable

import jax.numpy as jnp

from jaxnn.attacks.core import Box
from jaxnn.defenses.core import Epsilon, budget_at, check_settings, mixed
from jaxnn.defenses.interval import margins
from jaxnn.programs import remembered
from jaxnn.train.step import Defense, value_and_gradients


@remembered
def ibp(
    epsilon: Epsilon, kappa: float | Callable = 0.5, *, box: Box = (0.0, 1.0)
) -> Defense:
    """kappa J(z) + (1 - kappa) J(worst z): interval bound propagation.

    The worst z has for each class the largest margin over the label's that the bounds
    of `jaxnn.layers.interval` allow. y are labels.

    Args:
      epsilon: Linf budget; use `ramp(...)`, and somewhat more than is to be proven.
      kappa: share of the plain loss, a number or a function of the step; usually it
        falls from 1 to 0.5 while epsilon grows.
      box: limits of a pixel, None for none.

    Source: Gowal et al. 2018, arXiv 1810.12715.
    """
    check_settings("ibp", epsilon)

    def gradients(net, loss, params, state, x, y, *, key, step, memory):
        limit = budget_at(epsilon, step, x.dtype)
        share = jnp.asarray(kappa(step) if callable(kappa) else kappa, x.dtype)
        bounds = margins(net, box)
        plain, _, dparams, state = value_and_gradients(
            net, loss, params, state, x, y, key
        )
        worst, cache = bounds.forward(params, state, x, y, limit, key=key, train=True)
        value, dworst = loss(worst, y)
        both = mixed(share, (plain, dparams), (value, bounds.backward(cache, dworst)))
        return *both, state, memory

    return Defense("ibp", gradients, attack_steps=0)
