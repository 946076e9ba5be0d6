"""Cases of convolutional and pooling layers."""

from jaxnn.layers import (
    avg_pool,
    conv,
    conv1d,
    conv_transpose,
    depthwise_conv,
    global_avg_pool,
    global_max_pool,
    max_pool,
)

CASES = {
    "avg_pool": [(avg_pool(2), (4, 5, 2), 2), (avg_pool(3, 2, "SAME"), (4, 4, 1), 1)],
    "conv": [
        (conv(3), (5, 4, 2), 2),
        (conv(1, 1), (1, 1, 1), 1),
        (conv(4, (3, 2), 2, "VALID", groups=2, bias=False), (5, 6, 2), 3),
        (conv(2, (3,), bias="normal", dilation=2), (6, 3), 2),
    ],
    "conv1d": [(conv1d(3), (5, 2), 2), (conv1d(2, 4, 2, "VALID"), (7, 1), 1)],
    "conv_transpose": [
        (conv_transpose(2, 3, 2), (3, 2, 2), 2),
        (conv_transpose(3, (2,), 3, "VALID", bias=False), (4, 2), 1),
    ],
    "depthwise_conv": [
        (depthwise_conv(3), (4, 5, 3), 2),
        (depthwise_conv((2,), 2, multiplier=2), (5, 2), 1),
    ],
    "global_avg_pool": [(global_avg_pool, (3, 2, 4), 2), (global_avg_pool, (1, 1), 1)],
    "global_max_pool": [(global_max_pool, (3, 2, 4), 2), (global_max_pool, (5, 2), 1)],
    "max_pool": [
        (max_pool(2), (4, 5, 2), 2),
        (max_pool((3, 2), 1, "SAME"), (4, 3, 2), 2),
        (max_pool((2,)), (6, 3), 1),
    ],
}
