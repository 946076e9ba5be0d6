"""Rivals: PyTorch as it is usually written, in float32 and autocast to bfloat16.

The data stay in memory and each batch is one `index_select`: no DataLoader, which would
cost more than the network. The optimizers are the fused ones, which here are faster
than PyTorch's default. Convolutions have channels last in memory, the layout that
PyTorch recommends on CPU, and the faster one here.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn

from experiments.rivals import Rival, Task, batches, start, unit

OPTIMIZERS = {
    "sgd": lambda params, rate: torch.optim.SGD(params, lr=rate, fused=True),
    "adam": lambda params, rate: torch.optim.Adam(params, lr=rate, fused=True),
}


def layers(weights: Sequence[tuple[np.ndarray, np.ndarray]]) -> nn.Sequential:
    """Make Linear, ReLU, ..., Linear of the given w (I, O) and b (O,)."""
    made: list[nn.Module] = []
    for w, b in weights:
        linear = nn.Linear(*w.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(w.T))  # torch keeps w as (O, I)
            linear.bias.copy_(torch.from_numpy(b))
        made += [linear, nn.ReLU()]
    return nn.Sequential(*made[:-1])


class CNN(nn.Module):
    """The convolutional network: images (B, 784) -> logits (B, 10)."""

    def __init__(self, weights: Sequence[tuple[np.ndarray, np.ndarray]]):
        super().__init__()
        made: list[nn.Module] = []
        for w, b in weights[:2]:
            k, _, i, o = w.shape
            conv = nn.Conv2d(i, o, k, padding="same")
            with torch.no_grad():
                # torch keeps w as (O, I, K, K)
                conv.weight.copy_(torch.from_numpy(w.transpose(3, 2, 0, 1)))
                conv.bias.copy_(torch.from_numpy(b))
            made += [conv, nn.ReLU(), nn.MaxPool2d(2)]
        self.images = nn.Sequential(*made)
        # and the first dense layer's inputs as (channels, height, width)
        (w, b), last = weights[2:]
        w = w.reshape(7, 7, 64, 1024).transpose(2, 0, 1, 3).reshape(w.shape)
        self.classes = layers([(w, b), last])
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        """Images (B, 784), float32, to logits."""
        x = x.view(-1, 1, 28, 28).to(memory_format=torch.channels_last)
        return self.classes(self.images(x).flatten(1))


def network(task: Task) -> nn.Module:
    """The task's network, with the common start weights."""
    return (layers if task.widths else CNN)(start(task.widths, task.seed))


def rival(name: str, model: nn.Module, step: Callable, task: Task) -> Rival:
    """Put `step` in the loop over the batches; `torch_compiled` uses it too."""
    device = torch.get_default_device()
    images = torch.from_numpy(unit(task.x)).to(device)
    labels = torch.from_numpy(task.y.astype(np.int64)).to(device)

    def epoch(index: int) -> float:
        order = torch.from_numpy(batches(task, index)).to(device)
        loss = torch.zeros(())
        for rows, of_rows in zip(order, labels[order], strict=True):
            loss += step(images.index_select(0, rows), of_rows)
        return float(loss) / len(order)

    @torch.inference_mode()
    def accuracy(x: np.ndarray, y: np.ndarray) -> float:
        found = model(torch.from_numpy(unit(x)).to(device)).argmax(1)
        return float(np.mean(found.cpu().numpy() == y))

    return Rival(name, torch.__version__, epoch, accuracy)


def make(
    task: Task, name: str = "torch_eager", precision: Callable = nullcontext
) -> Rival:
    """See `experiments.rivals.Rival`; products are made in the context `precision`."""
    model = network(task)
    opt = task.chosen(OPTIMIZERS)(model.parameters(), task.learning_rate)

    def step(x, y):
        with precision():
            logits = model(x)
        loss = nn.functional.cross_entropy(logits.float(), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.detach()

    return rival(name, model, step, task)


def make_autocast(task: Task) -> Rival:
    """The same in mixed precision."""
    device = torch.get_default_device().type
    return make(task, "torch_autocast", lambda: torch.autocast(device, torch.bfloat16))
