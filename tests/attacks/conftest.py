"""One small trained network that all tests of attacks share."""

import optax
import pytest

from jaxnn.train import fit
from tests.attacks.problem import NET
from tests.train.problem import pixels


@pytest.fixture(scope="session")
def trained():
    x, y = pixels(400)
    history = fit(NET, (x, y), optimizer=optax.adam(0.02), epochs=8, batch=50)
    return history.params, history.state, x[:60] / 255.0, y[:60]
