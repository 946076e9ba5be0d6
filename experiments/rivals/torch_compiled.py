"""Rival: PyTorch with torch.compile of the whole step.

Compiling the loss alone and leaving backward and the optimizer to eager PyTorch, the
usual recipe, is no faster than eager here: with layers this small the calls cost more
than the work. So gradient and update are one function (`torch.func`) and one graph,
which takes well under the time of eager on 784-30-10.
"""

from collections.abc import Callable

import torch
from torch import nn

from experiments.rivals import Rival, Task, UnavailableError, torch_eager


def _sgd(params, learning_rate):
    def update(grads):
        for name, p in params.items():
            p.sub_(learning_rate * grads[name])

    return update


def _adam(params, learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """Adam, Kingma and Ba 2014, https://arxiv.org/abs/1412.6980."""
    m = {name: torch.zeros_like(p) for name, p in params.items()}
    v = {name: torch.zeros_like(p) for name, p in params.items()}
    # b1**t and b2**t as tensors: a Python number that changes would recompile each
    # step, and a power would be taken again for every parameter.
    power1, power2 = torch.ones(()), torch.ones(())

    def update(grads):
        power1.mul_(b1)
        power2.mul_(b2)
        rate, root = learning_rate / (1 - power1), (1 - power2).rsqrt()
        for name, p in params.items():
            g = grads[name]
            m[name].lerp_(g, 1 - b1)
            v[name].mul_(b2).addcmul_(g, g, value=1 - b2)
            p.sub_(rate * m[name] / (v[name].sqrt() * root + eps))

    return update


OPTIMIZERS = {"sgd": _sgd, "adam": _adam}


def train_step(model: nn.Module, task: Task) -> Callable:
    """Make the step: (x (B, I), y (B,)) -> loss, changing `model` in place."""
    params = {name: p.detach() for name, p in model.named_parameters()}
    update = task.chosen(OPTIMIZERS)(params, task.learning_rate)

    def mean_loss(params, x, y):
        z = torch.func.functional_call(model, params, (x,))
        return nn.functional.cross_entropy(z, y)

    gradient = torch.func.grad_and_value(mean_loss)

    def step(x, y):
        grads, loss = gradient(params, x, y)
        update(grads)
        return loss

    return torch.compile(step, dynamic=False)


def make(task: Task) -> Rival:
    model = torch_eager.network(task)
    step = train_step(model, task)
    try:
        torch.compile(lambda a: a + 1)(torch.zeros(1))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UnavailableError(
            f"torch_compiled: got {reason!r} from torch.compile, expected a working "
            "C++ compiler; install g++, or leave this rival out"
        ) from error
    return torch_eager.rival("torch_compiled", model, step, task)
