"""Rival: the convolutional network in eager PyTorch, channels last in memory.

Channels last is the layout that PyTorch recommends on CPU, and the faster one here.
"""

import torch
from torch import nn

from experiments.rivals import Rival, Task, torch_autocast, torch_eager
from experiments.rivals.cnn import start


class Network(nn.Module):
    """Images (B, 784) -> logits (B, 10)."""

    def __init__(self, seed: int):
        super().__init__()
        layers: list[nn.Module] = []
        weights = start(seed)
        for w, b in weights[:2]:
            k, _, i, o = w.shape
            conv = nn.Conv2d(i, o, k, padding="same")
            with torch.no_grad():
                # torch keeps w as (O, I, K, K)
                conv.weight.copy_(torch.from_numpy(w.transpose(3, 2, 0, 1)))
                conv.bias.copy_(torch.from_numpy(b))
            layers += [conv, nn.ReLU(), nn.MaxPool2d(2)]
        self.images = nn.Sequential(*layers)
        # and the first dense layer's inputs as (channels, height, width)
        (w, b), last = weights[2:]
        w = w.reshape(7, 7, 64, 1024).transpose(2, 0, 1, 3).reshape(w.shape)
        self.classes = torch_eager.layers([(w, b), last])
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        """Images (B, 784), float32, to logits."""
        x = x.view(-1, 1, 28, 28).to(memory_format=torch.channels_last)
        return self.classes(self.images(x).flatten(1))


def make(task: Task) -> Rival:
    """See `experiments.rivals.Rival`."""
    return torch_eager.train(Network(task.seed), task)


def make_autocast(task: Task) -> Rival:
    """The same in mixed precision."""
    return torch_autocast.train(Network(task.seed), task)
