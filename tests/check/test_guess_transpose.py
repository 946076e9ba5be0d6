"""A missing transpose is guessed behind any derivative, not of a plain product only."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.check.guess import Clue, guess
from jaxnn.check.watch import Given

DRAW = np.random.default_rng(0)
X, W, DZ = (DRAW.standard_normal(shape) for shape in ((4, 5), (5, 5), (4, 5)))
WRONG = {  # what it is, what it should be, the guess
    "missing": (DZ @ W, DZ @ W.T, "a transpose is missing: it is a product with w, "),
    "too many": (DZ @ W.T, DZ @ W, "a transpose too many: it is a product with w^T, "),
    "from the left": (W @ DZ.T, W.T @ DZ.T, "a product with w"),
    "none": (DZ @ W, DZ @ W @ W, "no simple relation"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_transpose(name):
    got, want, words = WRONG[name]
    given = Given({"w": jnp.asarray(W)}, (), X, None, np.tanh(DZ))
    clue = Clue("x", {"x": got}, {"x": want}, given, 1e-12)
    assert words in guess(clue)
