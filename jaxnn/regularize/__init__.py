"""Regularisers: what is added to the loss, done to weights, gradients, or the input.

    penalties    `params -> (value, dparams)`: l1, l2, elastic_net, spectral_norm
    projections  `params -> params` after the update: max_norm, max_spectral_norm
    noise        `(key, x) -> x`: Gaussian, uniform, sign; weight_noise; mixup
    gradients    `(grads, norm) -> grads`: clip_gradient

Penalties, projections and weight noise act on weights, the leaves called w, or those
of a `mask` (`jaxnn.tree.weights`); biases, gammas and betas are left alone. Label
smoothing belongs to the loss (`softmax_cross_entropy`), dropout is a layer, images are
turned and shifted in `jaxnn.augment`, early stopping is `fit(patience=...)`.
"""

from jaxnn.regularize.gradients import clip_gradient
from jaxnn.regularize.noise import (
    NOISES,
    input_noise,
    mixup,
    sign_noise,
    uniform_noise,
    weight_noise,
)
from jaxnn.regularize.penalties import (
    Penalty,
    combined,
    elastic_net,
    l1,
    l2,
    spectral_norm,
)
from jaxnn.regularize.projections import in_turn, max_norm, max_spectral_norm

__all__ = [
    "NOISES",
    "Penalty",
    "clip_gradient",
    "combined",
    "elastic_net",
    "in_turn",
    "input_noise",
    "l1",
    "l2",
    "max_norm",
    "max_spectral_norm",
    "mixup",
    "sign_noise",
    "spectral_norm",
    "uniform_noise",
    "weight_noise",
]
