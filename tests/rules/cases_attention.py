"""Cases of attention, with a loop over the queries."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import rules
from tests.rules.common import Case, normal


def attention(causal=False):
    """Weights as a loop over the queries, each over the keys it sees."""

    def reference(q, k, v, mask=None):
        t, s = q.shape[-2], k.shape[-2]
        scores = jnp.einsum("...td,...sd->...ts", q, k) / np.sqrt(q.shape[-1])
        seen = jnp.ones_like(scores)
        if mask is not None:
            seen = seen * jnp.broadcast_to(mask, scores.shape)
        if causal:
            seen = seen * jnp.broadcast_to(jnp.tri(t, s), scores.shape)
        if not s * t:
            return jnp.zeros((*q.shape[:-1], v.shape[-1]))
        rows = []
        for i in range(t):
            row, on = scores[..., i, :], seen[..., i, :]
            top = jax.lax.stop_gradient((row - (1 - on) * 1e9).max(-1, keepdims=True))
            # the exponent of what is not seen must not overflow before it is dropped
            e = jnp.exp(on * (row - top)) * on
            total = e.sum(-1, keepdims=True)
            rows.append(jnp.einsum("...s,...se->...e", e / (total + (total == 0)), v))
        return jnp.stack(rows, -2)

    return reference


def seen(*shape):
    """A mask with rows that see all, nothing, and something."""
    mask = normal(*shape, seed=8) > 0
    mask[..., :1, :] = True
    mask[..., 1:2, :] = False
    return mask


def attention_cases():
    table = {
        "batch": ((2, 3, 4), (2, 5, 4), 6, None, False),
        "no batch": ((2, 4), (5, 4), 2, None, False),
        "heads": ((2, 3, 4, 2), (2, 3, 4, 2), 2, None, True),
        "causal": ((2, 4, 3), (2, 4, 3), 3, None, True),
        "causal, fewer keys": ((1, 3, 2), (1, 2, 2), 2, None, True),
        "all of size one": ((1, 1, 1), (1, 1, 1), 1, None, False),
        "one key": ((2, 3, 2), (2, 1, 2), 3, None, False),
        "masked": ((2, 3, 4), (2, 5, 4), 3, seen(2, 3, 5), False),
        "mask of the keys": ((2, 3, 4), (2, 4, 4), 3, seen(2, 1, 4), False),
        "mask of all heads": ((2, 3, 4, 2), (2, 3, 5, 2), 2, seen(2, 1, 4, 5), False),
        "masked and causal": ((2, 4, 3), (2, 4, 3), 2, seen(2, 4, 4), True),
        "nothing seen": ((2, 2, 3), (2, 4, 3), 2, np.zeros((2, 2, 4), bool), False),
        "no keys": ((2, 3, 4), (2, 0, 4), 2, None, False),
        "no keys, masked": ((2, 3, 4), (2, 0, 4), 2, np.ones((2, 3, 0), bool), False),
        "no queries": ((2, 0, 4), (2, 3, 4), 2, None, False),
    }
    cases = []
    for name, (q, k, width, mask, causal) in table.items():
        args = (normal(*q), normal(*k, seed=1), normal(*k[:-1], width, seed=2))
        args = args if mask is None else (*args, mask)
        cases.append(Case(name, rules.attention(causal), args, attention(causal)))
    for name, mask in (("huge", None), ("huge, masked", seen(2, 3, 5))):
        args = (100 * normal(2, 3, 4), 100 * normal(2, 5, 4, seed=1), normal(2, 5, 2))
        args = args if mask is None else (*args, mask)
        cases.append(Case(name, rules.attention(), args, attention()))
    return cases


CASES = {"attention": attention_cases()}
