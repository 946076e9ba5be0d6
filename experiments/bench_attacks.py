"""How fast is PGD-40 beside the same attack of other libraries?

    chrt -r 1 python -m experiments.bench_attacks    about two minutes; needs '.[bench]'

The same trained network, 10,000 test images, Linf 0.1, 40 steps of 0.00625, a random
start. All programs in turn in one process, after a warm-up, medians of the rounds:
jaxnn, Foolbox with its PyTorch and its JAX back end, and a loop in the style of
torchattacks in eager PyTorch. jaxnn runs twice: `early_stop` finds the same images by
leaving each one alone once it is fooled; plain `pgd` goes on, and of all points seen it
keeps each image's best. PyTorch runs twice: as shipped, and told to take denormal
numbers, which the gradients of sure networks may be full of, for 0, as XLA does.
Expected: with early stop at least 3 times as fast as each. Stopping early gains nothing
on a network that holds, so all of it is run again on one trained by PGD-7. "Products
alone", no rival but a yardstick, says how little of `pgd` is anything else.

    python -m experiments.bench_attacks --part precision    about three minutes

PGD-40, and training on PGD-7 and by TRADES, in float32 and with products in bfloat16,
beside the products alone in either: how much sooner is it done, and is it as good? What
was attacked or trained in bfloat16 is judged in float32. Expected: the same accuracy
under attack, within the error of so many images or seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import bench
from experiments.common import Line, main, record, verdicts
from experiments.robust import accuracy, attack_all, digits, trained
from experiments.turns import Program, in_turn, ratio
from jaxnn import Classifier, attacks, defenses, make_step, mlp
from jaxnn.losses import softmax_cross_entropy
from jaxnn.rules.products import PRECISIONS, policy, product, product_nt

EPSILON, STEPS = 0.1, 40
SIZE = 2.5 * EPSILON / STEPS
EARLY = "jaxnn, early stop"


@dataclass(frozen=True)
class Args:
    """Settings."""

    widths: tuple[int, ...] = (784, 128, 10)  # Of the network
    rounds: int = 3  # Turns of each program
    batch: int = 1000  # Images a call, of all programs
    epochs: int = 3  # Of training
    part: Literal["rivals", "precision"] = "rivals"  # What is measured
    seeds: int = 3  # Networks trained in each precision, for their accuracy
    steps: int = 75  # Of training, in a turn of each program


def ours(
    net: Classifier, data: Any, batch: int, **options: Any
) -> Callable[[int], Any]:
    def run(number):
        return attack_all(
            net, attacks.pgd, data.x, data.y, batch, epsilon=EPSILON, steps=STEPS,
            step_size=SIZE, key=jax.random.key(number), **options,
        )  # fmt: skip

    return run


def torch_network(net: Classifier) -> Any:
    import torch

    from experiments.rivals import torch_eager

    weights = [(np.array(p["w"]), np.array(p["b"])) for p in net.params if p]
    model = torch.nn.Sequential(torch.nn.Flatten(), torch_eager.layers(weights)).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def torch_loop(net: Classifier, data: Any, batch: int) -> Callable[[int], Any]:
    """PGD as torchattacks writes it: autograd, sign, clamp, in eager PyTorch."""
    import torch

    model, loss = torch_network(net), torch.nn.CrossEntropyLoss()
    x, y = torch.tensor(data.x), torch.tensor(np.asarray(data.y)).long()

    def attack(images, labels):
        adv = images + torch.empty_like(images).uniform_(-EPSILON, EPSILON)
        adv = torch.clamp(adv, min=0, max=1).detach()
        for _ in range(STEPS):
            adv.requires_grad = True
            cost = loss(model(adv), labels)
            grad = torch.autograd.grad(cost, adv)[0]
            adv = adv.detach() + SIZE * grad.sign()
            delta = torch.clamp(adv - images, min=-EPSILON, max=EPSILON)
            adv = torch.clamp(images + delta, min=0, max=1).detach()
        return adv

    def run(number):
        torch.manual_seed(number)
        rows = range(0, len(x), batch)
        return torch.cat(
            [attack(x[i : i + batch], y[i : i + batch]) for i in rows]
        ).numpy()

    return run


def foolbox_of(model: Any, tensor: Callable, data: Any, batch: int) -> Callable:
    """Foolbox's LinfPGD on a Foolbox model."""
    import foolbox

    attack = foolbox.attacks.LinfPGD(abs_stepsize=SIZE, steps=STEPS)

    def run(number):
        del number
        found = []
        for i in range(0, len(data.y), batch):
            x, y = tensor(data.x[i : i + batch]), tensor(data.y[i : i + batch])
            found.append(np.asarray(attack(model, x, y, epsilons=EPSILON)[1]))
        return np.concatenate(found)

    return run


def as_shipped(attack: Callable[[int], Any]) -> Callable[[int], Any]:
    """The same with PyTorch's default: denormal numbers are calculated with, slowly."""
    import torch

    def run(number):
        torch.set_flush_denormal(False)
        try:
            return attack(number)
        finally:
            torch.set_flush_denormal(True)

    return run


def products_alone(
    net: Classifier, data: Any, batch: int, steps: int = STEPS,
    precision: str = "float32",
) -> Callable[[int], Any]:  # fmt: skip
    """No rival but a yardstick: the matrix products of 40 gradients, nothing else."""
    ws = [p["w"] for p in net.params if isinstance(p, dict)]
    flat = jnp.asarray(data.x).reshape(-1, batch, data.x[0].size)

    @jax.jit
    def all_steps(flat):
        def step(_, x):
            z = x
            with policy(precision=precision):
                for w in ws:
                    z = product(z, w)
                for w in ws[::-1]:
                    z = product_nt(z, w)
            return x + 1e-9 * z

        return jax.lax.map(lambda x: jax.lax.fori_loop(0, steps, step, x), flat)

    return lambda number: np.asarray(all_steps(flat)).reshape(data.x.shape)


def programs(net: Classifier, data: Any, batch: int) -> dict[str, Callable[[int], Any]]:
    import foolbox
    import torch

    torch.set_flush_denormal(True)  # XLA does so by itself
    with_torch = foolbox.PyTorchModel(torch_network(net), (0, 1), device="cpu")

    def outputs(x):
        return net.net.forward(net.params, net.state, x, train=False)[0]

    with_jax = foolbox.JAXModel(jax.jit(outputs), (0, 1))

    def as_torch(a):
        return torch.tensor(np.asarray(a)).long() if a.dtype != np.float32 else (
            torch.tensor(a))  # fmt: skip

    foolbox_torch = foolbox_of(with_torch, as_torch, data, batch)
    loop = torch_loop(net, data, batch)
    return {
        EARLY: ours(net, data, len(data.y), early_stop=True),
        "jaxnn": ours(net, data, batch),
        "products alone": products_alone(net, data, batch),
        "Foolbox, PyTorch": foolbox_torch,
        "Foolbox, PyTorch as shipped": as_shipped(foolbox_torch),
        "Foolbox, JAX": foolbox_of(with_jax, jnp.asarray, data, batch),
        "torchattacks-style loop": loop,
        "the same as shipped": as_shipped(loop),
    }


def compared(net: Classifier, data: Any, args: Args, what: str) -> dict[str, Any]:
    """One network: seconds of each program, times ours, and what each leaves right."""
    rivals = programs(net, data, args.batch)
    left = {n: accuracy(net, attack(0), data.y) for n, attack in rivals.items()}
    found = in_turn(rivals, args.rounds)
    print(f"\nPGD-{STEPS} on 10,000 images, {what}, batches of {args.batch}")
    for rival, times in found.items():
        print(f"  {rival:<26}{times['median']:>8.2f} s  "
              f"{ratio(found, rival, EARLY):>6.1f} x early stop  "
              f"{ratio(found, rival, 'jaxnn'):>6.1f} x pgd  "
              f"{100 * left[rival]:.2f}% left")  # fmt: skip
    return {
        "network": what, "programs": found, "accuracy_left": left,
        "times_jaxnn": {n: ratio(found, n, "jaxnn") for n in rivals},
        "times_early_stop": {n: ratio(found, n, EARLY) for n in rivals},
    }  # fmt: skip


TRAINING = {"PGD-7": defenses.pgd(EPSILON), "TRADES": defenses.trades(EPSILON)}


def training(what: str, data: Any, args: Args, precision: str) -> dict[str, Program]:
    """Some steps of it, and at least their matrix products."""
    net, batch, count = mlp(list(args.widths)), 128, 128 * args.steps
    x, y = (a[:count] for a in data.train)
    x = x.reshape(count, -1)
    step = make_step(
        net, softmax_cross_entropy, optax.adam(1e-3), defense=TRAINING[what],
        watch_update=False, precision=precision,
    )  # fmt: skip
    start = Classifier(net, net.init(jax.random.key(0), x.shape[1:])[0])
    few, steps = data._replace(x=data.x[:count]), TRAINING[what].attack_steps or 0
    attack = products_alone(start, few, batch, steps, precision)
    learn = bench.products_alone(args.widths, batch, args.steps, precision=precision)

    def alone(number):
        attack(number)
        for _ in range(2 if what == "TRADES" else 1):  # images, and their neighbors
            learn(number)

    return {
        f"training by {what}": bench.scanned(step, net, step.optimizer, x, y, batch),
        f"training by {what}, products alone": alone,
    }


def in_precision(
    data: Any, args: Args, precision: str, networks: dict[str, Classifier]
) -> tuple[dict[str, Program], dict[str, list[float]]]:
    """Programs in a precision, and what attacks leave: of a network, of each seed."""
    run, left = {}, {}
    for what, net in networks.items():
        net = replace(net, precision=precision)
        name = f"PGD-{STEPS}, {what}"
        run[name] = ours(net, data, args.batch)
        left[name] = [accuracy(net, run[name](0), data.y)]
    run[f"PGD-{STEPS}, products alone"] = products_alone(
        networks["plain"], data, args.batch, precision=precision
    )
    for what, defense in TRAINING.items():
        run |= training(what, data, args, precision)
        left[f"training by {what}"] = [
            accuracy(net, ours(net, data, args.batch)(0), data.y)
            for net in trained(
                data, args.seeds, args.epochs, mlp(list(args.widths)),
                defense=defense, precision=precision,
            )
        ]  # fmt: skip
    return run, left


def precisions(args: Args) -> None:
    """bfloat16 beside float32; writes results/bench_attacks-precision.json."""
    data, layer = digits(), mlp(list(args.widths))
    networks = {
        what: trained(data, 1, args.epochs, layer, defense=defense)[0]
        for what, defense in {"plain": None, "PGD-7": TRAINING["PGD-7"]}.items()
    }
    made = {p: in_precision(data, args, p, networks) for p in PRECISIONS}
    found = in_turn(
        {f"{name}, {p}": one for p in made for name, one in made[p][0].items()},
        args.rounds,
    )
    values, lines = {}, []
    (_, exact), (_, rounded) = made.values()
    for name in made["float32"][0]:
        share = ratio(found, f"{name}, bfloat16", f"{name}, float32")
        seconds = found[f"{name}, float32"]["median"]
        print(f"  {name:<40}{seconds:>7.2f} s in float32, bfloat16 takes {share:.2f}")
        values[name] = {"bfloat16_over_float32": share, "float32_seconds": seconds}
        if name in exact:
            pair = np.array([exact[name], rounded[name]])
            values[name] |= {"left": dict(zip(PRECISIONS, pair.tolist(), strict=True))}
            error = np.sqrt(pair.mean() * (1 - pair.mean()) / len(data.y))
            if pair.shape[1] > 1:
                error = max(error, *pair.std(1, ddof=1))
            gap = pair[1].mean() - pair[0].mean()
            lines.append(Line(f"{name}: more left", gap, -2 * error, 2 * error))
    expected = verdicts(*lines)
    record(
        "bench_attacks-precision", args,
        {"compared": values, "programs": found, "expected": expected},
        module="bench_attacks",
    )  # fmt: skip


def run(args: Args) -> None:
    if args.part == "precision":
        return precisions(args)
    data, name = digits(), "-".join(map(str, args.widths))
    kinds = {name: None, f"{name} trained by PGD-7": TRAINING["PGD-7"]}
    plain, robust = (
        compared(
            trained(data, 1, args.epochs, mlp(list(args.widths)), defense=how)[0],
            data, args, what,
        )
        for what, how in kinds.items()
    )  # fmt: skip
    lines = verdicts(
        *(Line(f"{n} / jaxnn, early stop", r, 3.0)
          for n, r in plain["times_early_stop"].items()
          if n not in (EARLY, "jaxnn", "products alone")),
        percent=False,
    )  # fmt: skip
    values = plain | {"robust": robust, "expected": lines}
    record("bench_attacks", args, values, ("torch", "foolbox"))


if __name__ == "__main__":
    main(Args, run)
