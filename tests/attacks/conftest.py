"""One small trained network that all tests of attacks share."""

import pytest

from tests.attacks import problem


@pytest.fixture(scope="session")
def trained():
    return problem.trained(60)
