"""Cases of the layers for sequences and of those that normalise each sample."""

import jax.numpy as jnp
import numpy as np

from jaxnn.layers import (
    embedding,
    group_norm,
    gru,
    layer_norm,
    lstm,
    multi_head_attention,
    positional_embedding,
    rnn,
)
from tests.rules.common import normal


def padded():
    """(3, 4, 2) with steps of nothing but -1; single features of -1 are data."""
    x = normal(3, 4, 2, seed=5)
    x[0, 2:], x[1], x[2, 1, 0] = -1, -1, -1
    return x


def indices():
    return np.array([[0, 4, 4], [2, 0, 1]], np.int32)


CASES = {
    "embedding": [
        (embedding(5, 3), (3,), 2, indices),
        (embedding(5, 2, padding=0), (3,), 2, indices),
        (embedding(5, 2), (3,), 2, lambda: indices().astype(float)),
        (embedding(3, 1), (), 2, lambda: np.array([2, 0])),
    ],
    "group_norm": [(group_norm(2), (2, 3, 4), 2), (group_norm(), (3,), 1)],
    "gru": [(gru(3), (4, 2), 3), (gru(2, True, mask_value=-1), (4, 2), 3, padded)],
    "layer_norm": [(layer_norm(), (5,), 3), (layer_norm(1e-3), (2, 1, 4), 1)],
    "lstm": [
        (lstm(3), (4, 2), 3),
        (lstm(1, True), (1, 1), 1),
        (lstm(2, go_backwards=True, mask_value=-1), (4, 2), 3, padded),
    ],
    "multi_head_attention": [
        (multi_head_attention(2), (3, 4), 2),
        (multi_head_attention(3, 2, causal=True, bias=False), (4, 5), 2),
        (multi_head_attention(1), (1, 1), 1),
    ],
    "positional_embedding": [
        (positional_embedding(), (3, 2), 2),
        (positional_embedding("normal"), (3, 2), 2, lambda: jnp.ones((2, 1, 2))),
    ],
    "rnn": [
        (rnn(3), (4, 2), 3),
        (rnn(2, True, activation="relu"), (2, 3), 2),
    ],
}
