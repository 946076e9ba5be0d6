"""Where parameters start: a name, or a function (key, shape, dtype) -> array."""

from collections.abc import Callable

import jax
from jax import Array
from jax.nn import initializers as jax_initializers

from jaxnn.errors import lookup

Initializer = Callable[..., Array]

INITIALIZERS: dict[str, Initializer] = {
    "zeros": jax_initializers.zeros,
    "normal": jax.random.normal,
    "xavier": jax_initializers.glorot_normal(),
    "xavier_normal": jax_initializers.glorot_normal(),
    "xavier_uniform": jax_initializers.glorot_uniform(),
    "he": jax_initializers.he_normal(),
    "he_normal": jax_initializers.he_normal(),
    "he_uniform": jax_initializers.he_uniform(),
    "lecun": jax_initializers.lecun_normal(),
    "lecun_normal": jax_initializers.lecun_normal(),
    "lecun_uniform": jax_initializers.lecun_uniform(),
    "orthogonal": jax_initializers.orthogonal(),
}
"""Name -> initialiser; the bare names are the normal (truncated at two sigma) variants.

Standard deviations for w (I, O): `lecun` sqrt(1/I) (LeCun 1998), `he` sqrt(2/I)
(He 2015, for relu), `xavier` sqrt(2/(I+O)) (Glorot 2010, for tanh and sigmoid),
`normal` 1 (Nielsen's first network); `orthogonal`: Saxe 2014.
"""


def initializer(init: str | Initializer) -> Initializer:
    """The initialiser of that name, or `init` itself if it is a function already.

    Raises:
      JaxnnError: unknown name; lists the valid ones.
    """
    return init if callable(init) else lookup("initialiser", init, INITIALIZERS)
