"""Rival: PyTorch as it is usually written, module and optimizer, on the CPU.

The data stay in memory and each batch is one `index_select`: no DataLoader, which would
cost more than the network. The optimizers are the fused ones, which here are faster
than PyTorch's default.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from experiments.rivals import Rival, Task, batches, start, unit

OPTIMIZERS = {
    "sgd": lambda params, rate: torch.optim.SGD(params, lr=rate, fused=True),
    "adam": lambda params, rate: torch.optim.Adam(params, lr=rate, fused=True),
}


def network(widths: Sequence[int], seed: int) -> nn.Sequential:
    """Make Linear, ReLU, ..., Linear with the common start weights."""
    return layers(start(widths, seed))


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


def train_step(model: nn.Module, opt: torch.optim.Optimizer) -> Callable:
    """Make the step: (x (B, I), y (B,)) -> loss, changing `model` in place."""

    def step(x, y):
        loss = nn.functional.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.detach()

    return step


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


def make(task: Task) -> Rival:
    """See `experiments.rivals.Rival`."""
    return train(network(task.widths, task.seed), task)


def train(model: nn.Module, task: Task) -> Rival:
    """The loop over any network, with an optimizer of PyTorch's."""
    optimizer = task.chosen(OPTIMIZERS)(model.parameters(), task.learning_rate)
    return rival("torch_eager", model, train_step(model, optimizer), task)
