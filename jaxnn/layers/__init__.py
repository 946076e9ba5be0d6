"""Layers: rules bound to parameters, state and randomness.

Settings that make no sense are refused where the layer is made, keys, shapes and inputs
that do not fit where it is called, by a `JaxnnError` that says what was got, what was
expected and what to do; so it is with `jaxnn.combine`.

A layer without settings is a value (`relu`), one with settings a call (`dense(128)`).
One of your own is a `Layer`: `pointwise` and `shaped` make it of a rule, `@constructor`
says how it was made, `bounded` what bounds it has; `register` makes it known by name.
"""

# each family says in its `__all__` what is public, so that a layer is added in one file
from jaxnn.layers.activations import *  # noqa: F403
from jaxnn.layers.attention import *  # noqa: F403
from jaxnn.layers.bounds import bounded as bounded
from jaxnn.layers.bounds import interval as interval
from jaxnn.layers.bounds import monotone as monotone
from jaxnn.layers.conv import *  # noqa: F403
from jaxnn.layers.core import ACTIVATIONS as ACTIVATIONS
from jaxnn.layers.core import LAYERS as LAYERS
from jaxnn.layers.core import Layer as Layer
from jaxnn.layers.core import constructor as constructor
from jaxnn.layers.core import pointwise as pointwise
from jaxnn.layers.core import register as register
from jaxnn.layers.core import shaped as shaped
from jaxnn.layers.core import value as value
from jaxnn.layers.linear import *  # noqa: F403
from jaxnn.layers.noise import *  # noqa: F403
from jaxnn.layers.norm import *  # noqa: F403
from jaxnn.layers.plain import from_plain as from_plain
from jaxnn.layers.plain import to_plain as to_plain
from jaxnn.layers.pool import *  # noqa: F403
from jaxnn.layers.recurrent import *  # noqa: F403
from jaxnn.layers.shape import *  # noqa: F403
