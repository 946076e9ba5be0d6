import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported

import hypothesis
import jax

# float64: a wrong formula shows at 1e-12, where float32 would blur it with rounding.
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error:::jaxnn")
