"""Rival: eager PyTorch in mixed precision: autocast to bfloat16, else as it was."""

from collections.abc import Callable

import torch
from torch import nn

from experiments.rivals import Rival, Task, torch_eager


def train_step(model: nn.Module, opt: torch.optim.Optimizer) -> Callable:
    """Make the step: (x (B, I), y (B,)) -> loss, changing `model` in place."""
    device = torch.get_default_device().type

    def step(x, y):
        with torch.autocast(device, torch.bfloat16):
            logits = model(x)
        loss = nn.functional.cross_entropy(logits.float(), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.detach()

    return step


def make(task: Task) -> Rival:
    """See `experiments.rivals.Rival`."""
    return train(torch_eager.network(task.widths, task.seed), task)


def train(model: nn.Module, task: Task) -> Rival:
    """The loop over any network, with an optimizer of PyTorch's."""
    chosen = task.chosen(torch_eager.OPTIMIZERS)
    optimizer = chosen(model.parameters(), task.learning_rate)
    step = train_step(model, optimizer)
    return torch_eager.rival("torch_autocast", model, step, task)
