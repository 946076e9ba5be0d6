"""All of the calculus: each derivative is written once, here, by hand.

Letters in the shape comments: B batch, I inputs, O outputs, C channels, H W image,
K kernel, N classes, T time, D features of a flattened sample, `...` any axes.

    elementwise  activations, softmax, functions and arithmetic of each element
    linear       products with weights, einsum, embeddings
    conv, pool   windows of images and sequences (`window`: where they lie)
    norm         batch, layer and group norm
    reduce       sum, mean, max, logsumexp over axes
    shape        reshape, transpose, slice, pad, upsample, concatenate
    recurrent    rnn, lstm, gru
    attention    queries, keys and values

Settings that make no sense are refused where the rule is made, arguments that do not
fit where it runs, by a `JaxnnError` that says what was expected.

A rule of your own is a `Rule`; `register` makes it known by name.
"""

# each family says in its `__all__` what is public, so that a rule is added in one file
from jaxnn.rules.attention import *  # noqa: F403
from jaxnn.rules.conv import *  # noqa: F403
from jaxnn.rules.core import RULES as RULES
from jaxnn.rules.core import Rule as Rule
from jaxnn.rules.core import keeps_x as keeps_x
from jaxnn.rules.core import keeps_y as keeps_y
from jaxnn.rules.core import register as register
from jaxnn.rules.elementwise import *  # noqa: F403
from jaxnn.rules.linear import *  # noqa: F403
from jaxnn.rules.norm import *  # noqa: F403
from jaxnn.rules.pool import *  # noqa: F403
from jaxnn.rules.recurrent import *  # noqa: F403
from jaxnn.rules.reduce import *  # noqa: F403
from jaxnn.rules.shape import *  # noqa: F403
