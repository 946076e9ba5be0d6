"""Rules that move elements without changing them."""

import math

from jaxnn.rules.core import Rule


def _flatten_fwd(x):
    # x (B, ...) -> y (B, D)
    return x.reshape(x.shape[0], math.prod(x.shape[1:])), x[:0]


def _flatten_bwd(empty, dy):
    return (dy.reshape(dy.shape[0], *empty.shape[1:]),)


flatten = Rule("flatten", _flatten_fwd, _flatten_bwd)
"""y (B, D) = x (B, ...) with all but the batch axis joined; dx = dy unjoined.

Keeps x[:0], an array of no elements: caches hold arrays only, and its shape is all that
the way back needs."""
