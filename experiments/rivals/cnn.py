"""What the rivals of the convolutional network share: its shapes and first weights.

conv 5x5x32, pool, conv 5x5x64, pool, dense 1024, dense 10; relu between, padding SAME,
pools of 2 x 2. Images come as rows of 784 pixels, as for the other rivals.

K kernel, I in, O out.
"""

import itertools
import math

import numpy as np

KERNELS = ((5, 5, 1, 32), (5, 5, 32, 64))
WIDTHS = (7 * 7 * 64, 1024, 10)


def start(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The common first weights: two w (K, K, I, O), two w (I, O), each with b (O,).

    He et al. 2015, https://arxiv.org/abs/1502.01852: the variance is 2 over what one
    output sums, b is zero.
    """
    rng = np.random.default_rng(seed)
    shapes = (*KERNELS, *itertools.pairwise(WIDTHS))
    return [
        (
            rng.standard_normal(shape, dtype=np.float32)
            * np.float32(math.sqrt(2 / math.prod(shape[:-1]))),
            np.zeros(shape[-1], np.float32),
        )
        for shape in shapes
    ]
