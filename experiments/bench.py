"""How fast is an epoch, and what does it cost to compile? All programs in one run.

Question: does one compiled scan over hand-written backward passes beat the loops people
write in PyTorch, Flax, Equinox, scikit-learn and NumPy, and the
same loop over jax.grad?

    python -m experiments.bench     about 15 minutes, needs pip install -e '.[bench]'
    python -m experiments.bench --only cnn      3 minutes: the convolutional network
    python -m experiments.bench --only lstm     2 minutes: recurrent ones, by themselves
    python -m experiments.bench --only guard    2 minutes: what the guard costs, too

Programs take turns within each round, in another order each time and after a pause in
which the threads of the one before come to rest, so that a machine that slows down
slows them all; figures are medians over rounds, comparisons are ratios within a round.
"products alone" is no rival but a yardstick: the matrix products of the epoch, nothing
else, as XLA does them. Data lie in
memory, the last partial batch is dropped, and every epoch is a new permutation.
Compilation is the first epoch less a later one. Expected: several times PyTorch on
small networks, less on wide ones, where all wait for the same matrix products; about
PyTorch's time on the convolutional network, where `jax.grad` in a scan takes 20 times
as long and in a loop twice. An LSTM's step by hand takes at most 1.0 of `jax.grad`'s
time, as its weight gradients are one product over all steps. A step that finds bad
values before they do harm takes at most 1.03 of one without any guard.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from experiments import rivals
from experiments.common import Line, main, record, verdicts
from experiments.turns import Program, in_turn, ratio
from jaxnn import mlp, serial
from jaxnn.check.adapters import automatic, automatic_loss
from jaxnn.data import load
from jaxnn.errors import lookup
from jaxnn.layers import (
    Layer,
    conv,
    dense,
    flatten,
    gru,
    lstm,
    max_pool,
    relu,
    reshape,
    rnn,
    standardize,
)
from jaxnn.losses import softmax_cross_entropy
from jaxnn.rules.products import few_outputs, policy, product, product_nt, product_tn
from jaxnn.train import batch_order, init_state, make_step, scan_seeds, scan_steps
from jaxnn.train.policy import Guard


@dataclass(frozen=True)
class Args:
    """Settings."""

    rounds: int = 7  # Counted rounds of every comparison, after one that warms up
    images: int = 55_000  # MNIST training images an epoch goes through
    skip: tuple[str, ...] = ()  # Programs to leave out
    only: tuple[str, ...] = ()  # Parts (TASKS, backward, seeds, cnn); or lstm or guard
    label: str = ""  # End of the result's name, beside that of another version


TASKS = {
    "784-30-10": ((784, 30, 10), 32, "sgd", 0.1),
    "784-128-10": ((784, 128, 10), 128, "adam", 1e-3),
    "784-512-512-10": ((784, 512, 512, 10), 128, "adam", 1e-3),
}
"""Name -> widths, batch, optimizer, learning rate."""


def ours(
    net: Layer, loss, batch, optimizer, x, y, seeds=0, own_order=False,
    precision="float32",
) -> Program:  # fmt: skip
    """jaxnn's engine on this network, as `fit` runs it; many networks if seeds > 0."""
    step = make_step(net, loss, optimizer, watch_update=False, precision=precision)
    return scanned(step, net, optimizer, x, y, batch, seeds=seeds, own_order=own_order)


def scanned(
    step, net: Layer, optimizer, x, y, batch, steps=None, seeds=0, own_order=False
) -> Program:
    """`step` over an epoch, or its first `steps` batches, in one compiled scan."""
    keys = jnp.stack([jax.random.key(s) for s in range(max(seeds, 1))])
    key = keys if seeds else keys[0]

    def init(key):
        return init_state(net, optimizer, x.shape[1:], key)

    train_state = jax.jit(jax.vmap(init) if seeds else init)(key)
    x, y = jnp.asarray(x), jnp.asarray(y)
    scan = partial(scan_steps, step)
    if seeds:
        scan = partial(scan_seeds, step, all_or_nothing=True)
    program = jax.jit(scan, donate_argnums=0)

    def epoch(number):
        nonlocal train_state
        order = batch_order(len(x), batch, number)
        if own_order:
            orders = [batch_order(len(x), batch, number, s) for s in range(seeds)]
            order = np.stack(orders, 1)
        train_state, metrics = program(train_state, x, y, order[:steps], key)
        return float(np.asarray(metrics["loss"]).mean())

    return epoch


def products_alone(
    widths, batch, steps, seeds=0, optimizer=None, precision="float32"
) -> Program:
    """Only the matrix products of an epoch: forward, dw, and dx but for the first.

    A network without biases, activations, loss or input pipeline; w moves by 1e-9 dw,
    so that no product can be left out, or as `optimizer` has it. About the least an
    epoch can take in XLA; single measurements of it scatter like all others.
    """
    optimizer = optax.sgd(1e-9) if optimizer is None else optimizer
    pairs = list(itertools.pairwise(widths))
    keys = jax.random.split(jax.random.key(0), len(pairs) + 1)
    # as the engine keeps them: (O, I) if there are few outputs, (I, S, O) with seeds
    turned = [few_outputs(i, o) for i, o in pairs]
    where = [0 if t else 1 for t in turned]

    def drawn(key, pair, t, axis):
        w = jax.random.normal(key, pair[::-1] if t else pair) / pair[0] ** 0.5
        return jnp.stack([w] * seeds, axis) if seeds else w

    ws = [drawn(*of) for of in zip(keys, pairs, turned, where, strict=False)]
    xs = jax.random.normal(keys[-1], (64, batch, widths[0]))  # 64 batches, in turn

    def gradients(ws, x):
        inputs, dws = [x], []
        for w, t in zip(ws, turned, strict=True):
            if t and seeds:  # as the engine does, see `jaxnn.rules.products`
                inputs.append(lax.optimization_barrier(w @ inputs[-1].T).T)
            else:
                inputs.append((product_nt if t else product)(inputs[-1], w))
        dy = inputs[-1]
        for n in reversed(range(len(ws))):
            pair = (dy, inputs[n]) if turned[n] else (inputs[n], dy)
            dws.append(product_tn(*pair))
            if n:
                dy = (product if turned[n] else product_nt)(dy, ws[n])
        return dws[::-1]

    if seeds:
        gradients = jax.vmap(gradients, in_axes=(where, None), out_axes=where)

    def step(carry, x):
        ws, opt = carry
        with policy(precision=precision):
            found = gradients(ws, x)
        updates, opt = optimizer.update(found, opt)
        return optax.apply_updates(ws, updates), opt

    @jax.jit
    def epoch(carry):
        return lax.fori_loop(0, steps, lambda i, c: step(c, xs[i % 64]), carry)

    start = ws, optimizer.init(ws)
    return lambda number: float(epoch(start)[0][0].sum())


def with_rivals(programs: dict[str, Program], tasks: dict[str, Any]) -> dict:
    """Add the rivals to `programs`; why some are absent, and of what version others."""
    absent, packages = {}, {}
    for rival, task in tasks.items():
        try:
            made = rivals.load(rival)(task)
        except rivals.UnavailableError as error:
            absent[rival] = str(error)
            continue
        programs[rival], packages[rival] = made.epoch, made.version
    return {"absent": absent, "rival_versions": packages}


def against_rivals(name: str, x, y, args: Args) -> dict:
    """One task, every rival that is installed."""
    widths, batch, optimizer, lr = TASKS[name]
    given = batch, {"sgd": optax.sgd, "adam": optax.adam}[optimizer](lr), x, y
    net, loss, half = mlp(widths), softmax_cross_entropy, {"precision": "bfloat16"}
    programs = {
        "jaxnn": ours(net, loss, *given),
        "products_alone": products_alone(widths, batch, len(x) // batch),
        "jaxnn_bfloat16": ours(net, loss, *given, **half),
        "jax_grad_bfloat16": ours(automatic(net), automatic_loss(loss), *given, **half),
        "products_alone_bfloat16": products_alone(
            widths, batch, len(x) // batch, **half
        ),
    }
    task = rivals.Task(batch, optimizer, lr, x, y, widths)
    tasks = {rival: task for rival in rivals.RIVALS if rival not in args.skip}
    facts = with_rivals(programs, tasks)
    programs = {name: p for name, p in programs.items() if name not in args.skip}
    found = in_turn(programs, args.rounds)
    for other in found:
        found[other]["times_jaxnn"] = ratio(found, other, "jaxnn")
        print(
            f"{name:<16}{other:<16}{found[other]['median']:8.3f} s an epoch "
            f"{found[other]['times_jaxnn']:6.2f} x jaxnn   first epoch "
            f"+{found[other]['compile']:.1f} s"
        )
    return {"programs": found} | facts


def manual_against_automatic(x, y, args: Args) -> dict:
    """The same network with batch norm and dropout, by hand and by reverse-mode AD."""
    net = mlp([784, 128, 128, 10], normalize=True, drop_rate=0.2)
    loss, optimizer = softmax_cross_entropy, optax.adam(1e-3)
    given, twin = (128, optimizer, x, y), (automatic(net), automatic_loss(loss))
    both = {"manual": ours(net, loss, *given), "automatic": ours(*twin, *given)}
    found = in_turn(both, 4 * args.rounds)  # close: more rounds tell them apart
    share = ratio(found, "manual", "automatic")
    print(f"backward by hand takes {share:.2f} of jax.grad's time")
    return {"programs": found, "manual_over_automatic": share}


def many_seeds(x, y, args: Args) -> dict:
    """Eight networks side by side against one."""
    widths, optimizer = [784, 128, 10], optax.adam(1e-3)
    make = partial(ours, mlp(widths), softmax_cross_entropy, 128, optimizer, x, y)
    products = partial(products_alone, widths, 128, len(x) // 128, seeds=8)
    eight = {
        "shared_over_one": ("eight, shared order", make(seeds=8)),
        "own_over_one": ("eight, own orders", make(seeds=8, own_order=True)),
        "products_over_one": ("eight, products alone", products()),
        "products_and_adam_over_one": (
            "eight, products and Adam", products(optimizer=optimizer)
        ),
    }  # fmt: skip
    found = in_turn({"one": make()} | dict(eight.values()), args.rounds)
    ratios = {key: ratio(found, name, "one") for key, (name, _) in eight.items()}
    for key, (name, _) in eight.items():
        print(f"{name} take {ratios[key]:.2f} times one's time")
    return {"programs": found} | ratios


def cnn() -> Layer:
    """conv 5x5x32, pool, conv 5x5x64, pool, dense 1024, dense 10; relu between."""
    images = (conv(32, 5), relu, max_pool(2), conv(64, 5), relu, max_pool(2))
    return serial(*images, flatten, dense(1024), relu, dense(10))


def cnn_products_alone(batch, steps, precision="float32") -> Program:
    """Only the matrix products of `cnn`'s steps, those of a convolution on patches.

    Forward, dw, and dx but for the first, on the patches of 16 images, which lie ready:
    a convolution has to make them. Nothing is copied, pooled or updated. No bound on
    every convolution: other splits of the kernel have other shapes, and PyTorch's
    kernels need no patches.
    """
    few = 16
    shapes = [  # rows, inputs, outputs, and how often a step
        (few * 784, 25, 32, batch // few), (few * 196, 800, 64, batch // few),
        (batch, 3136, 1024, 1), (batch, 1024, 10, 1),
    ]  # fmt: skip
    keys = jax.random.split(jax.random.key(0), len(shapes))
    xs = [jax.random.normal(k, s[:2]) for k, s in zip(keys, shapes, strict=True)]

    def layer(n, w):
        def once(_, made):
            w, dx = made
            y = product(xs[n], w, wide=True)
            dx = product_nt(y, w, wide=True) if n else dx
            return w + 1e-9 * product_tn(xs[n], y, wide=True), dx

        return lax.fori_loop(0, shapes[n][3], once, (w, xs[n]))

    def step(_, made):
        return [layer(n, w) for n, (w, _) in enumerate(made)]

    @jax.jit
    def run(made):
        with policy(precision=precision):
            return lax.fori_loop(0, steps, step, made)

    start = [(jnp.full(s[1:3], 1 / s[1]), x) for s, x in zip(shapes, xs, strict=True)]
    return lambda number: float(sum(w.sum() + dx[0, 0] for w, dx in run(start)))


def convolutional(x, y, args: Args) -> dict:
    """The convolutional network `rivals.CNN`, batch 128, Adam: seconds a step.

    Every program runs 20 steps at a time, but `jax.grad` in a scan, which takes seconds
    for one of them, runs 2.
    """
    batch, many, few = 128, 20, 2
    x, y = x[: many * batch], y[: many * batch]
    images = x.reshape(len(x), 28, 28, 1)
    given = cnn(), softmax_cross_entropy, batch, optax.adam(1e-3), images, y
    half = {"precision": "bfloat16"}
    programs = {
        "jaxnn": ours(*given), "jaxnn_bfloat16": ours(*given, **half),
        "products_alone": cnn_products_alone(batch, many),
        "products_alone_bfloat16": cnn_products_alone(batch, many, **half),
    }  # fmt: skip
    steps = dict.fromkeys([*programs, *rivals.CNN_RIVALS], many)
    steps["jax_grad_scan"] = few
    tasks = {
        rival: rivals.Task(
            batch, "adam", 1e-3, x[: steps[rival] * batch], y[: steps[rival] * batch]
        )
        for rival in sorted(set(rivals.CNN_RIVALS) - set(args.skip))
    }  # fmt: skip
    facts = with_rivals(programs, tasks)
    found = in_turn(programs, args.rounds)
    for name, times in found.items():
        times["seconds"] = [s / steps[name] for s in times["seconds"]]
        times["median"] /= steps[name]
    for name, times in found.items():
        times["times_jaxnn"] = ratio(found, name, "jaxnn")
        print(
            f"cnn             {name:<16}{1e3 * times['median']:8.1f} ms a step "
            f"{times['times_jaxnn']:6.2f} x jaxnn"
        )
    return {"programs": found} | facts


def lstm_in_torch(x, y, batch: int, steps: int, units: int) -> Program:
    """Steps in PyTorch, eager, with its own LSTM."""
    import torch
    from torch import nn

    cell, last = nn.LSTM(28, units, batch_first=True), nn.Linear(units, 10)
    optimizer = torch.optim.SGD([*cell.parameters(), *last.parameters()], 0.1)
    images, labels = torch.tensor(x), torch.tensor(y).long()

    def run(number):
        rows = torch.tensor(batch_order(len(x), batch, number)[:steps])
        for some in rows:
            optimizer.zero_grad()
            h = cell((images[some].float() / 255 - 0.1307) / 0.3081)[0][:, -1]
            loss = nn.functional.cross_entropy(last(h), labels[some])
            loss.backward()
            optimizer.step()
        return loss.item()

    return run


def recurrent(x, y, args: Args, batch=128, steps=20, units=128) -> dict:
    """Recurrent layers that read digits row by row: by hand, by jax.grad, in PyTorch.

    A step is the gradient and the update by SGD.
    """
    x, loss, sgd = x.reshape(-1, 28, 28), softmax_cross_entropy, optax.sgd(0.1)
    programs, absent = {}, None
    for name, cell in (("lstm", lstm), ("gru", gru), ("rnn", rnn)):
        net = serial(standardize(0.1307, 0.3081), cell(units), dense(10, "lecun"))
        auto = automatic(net), automatic_loss(loss)
        for way, (twin, value) in {"by hand": (net, loss), "jax.grad": auto}.items():
            step = make_step(twin, value, sgd)
            programs[f"{name}, {way}"] = scanned(step, twin, sgd, x, y, batch, steps)
    pairs = {n: (f"{n}, by hand", f"{n}, jax.grad") for n in ("lstm", "gru", "rnn")}
    try:
        programs["lstm, torch eager"] = lstm_in_torch(x, y, batch, steps, units)
        pairs["lstm, against torch"] = "lstm, by hand", "lstm, torch eager"
    except ImportError as error:
        absent = str(error)
    found = in_turn(programs, args.rounds)
    for name, times in found.items():
        times["ms_per_step"] = 1000 * times["median"] / steps
        print(f"{name:<34}{times['ms_per_step']:8.2f} ms a step")
    shares = {name: ratio(found, *pair) for name, pair in pairs.items()}
    for name, share in shares.items():
        print(f"{name}: by hand takes {share:.2f} of the other's time")
    return {"programs": found, "by_hand_over_other": shares, "torch_absent": absent}


def bare(net: Layer, loss: Callable, optimizer) -> Callable:
    """The step without a guard: gradients and update, and the loss as its metric."""

    def step(ts, x, y, key):
        x = x.astype(jnp.float32) * jnp.float32(1 / 255)
        key = jax.random.fold_in(key, ts.step)
        pred, state, cache = net.forward(ts.params, ts.state, x, key=key, train=True)
        value, dpred = loss(pred, y)
        _, grads = net.backward(cache, dpred)
        updates, opt = optimizer.update(grads, ts.opt, ts.params)
        params = optax.apply_updates(ts.params, updates)
        ts = ts._replace(params=params, state=state, opt=opt, step=ts.step + 1)
        return ts, {"loss": value}

    return step


def around_a_call(net, optimizer, x) -> float:
    """Milliseconds for what the guard does before and after a call: copy and look."""
    ts = init_state(net, optimizer, x.shape[1:], jax.random.key(0))
    guard, seconds = Guard("skip", 10, [0], multi_seed=False), []
    for _ in range(10):
        start = time.perf_counter()
        guard.copy(ts)
        jax.block_until_ready(guard.before)
        assert not guard.needs_rerun(ts)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds))


def guarded(x, y, args: Args, batch=128) -> dict:
    """A dense and a convolutional network with the guard and without any."""
    images, wide = standardize(0.1307, 0.3081), (dense(512), relu, dense(512), relu)
    nets = {  # and steps a round: half an epoch of the dense one
        "mlp": (serial(images, *wide, dense(10)), 215),
        "cnn": (serial(images, reshape(28, 28, 1), cnn()), 12),
    }
    values: dict[str, Any] = {}
    for name, (net, steps) in nets.items():
        optimizer, loss = optax.adam(1e-3), softmax_cross_entropy
        steppers = {
            "bare": bare(net, loss, optimizer),
            # as `fit` has it: the update is looked at once, after the call
            "skip": make_step(net, loss, optimizer, watch_update=False),
        }
        programs = {
            which: scanned(step, net, optimizer, x, y, batch, steps)
            for which, step in steppers.items()
        }
        found = in_turn(programs, args.rounds)
        times = ratio(found, "skip", "bare")
        values[name] = {"skip_over_bare": times, "programs": found, "steps": steps}
        for which in steppers:
            ms = 1000 * found[which]["median"] / steps
            values[name][f"{which}_ms_per_step"] = ms
            print(f"{name:<5} {which:<6}{ms:8.2f} ms a step")
        once = values[name]["once_a_call_ms"] = around_a_call(net, optimizer, x)
        print(f"{name:<5} beside that, once a call (an epoch): {once:.1f} ms")
        verdicts(Line(f"{name}, guarded over bare", times, high=1.03), percent=False)
    return values


ALONE = {"lstm": recurrent, "guard": guarded}
"""Parts that have a result of their own."""


def run(args: Args) -> None:
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is measured
    data = load("mnist").train
    x, y = data.x[: args.images].reshape(-1, 784), data.y[: args.images]
    values: dict = {}
    parts: dict[str, Callable] = {name: partial(against_rivals, name) for name in TASKS}
    parts |= {"backward": manual_against_automatic, "seeds": many_seeds}
    parts["cnn"] = convolutional
    for name in args.only:
        lookup("part", name, parts | ALONE)
    for name, part in parts.items():
        if not args.only or name in args.only:
            values[name] = part(x, y, args)
    if len(args.only) == 1 and args.only[0] in ALONE:
        values = ALONE[args.only[0]](x, y, args)
    # a part, and another version, has a result of its own
    name = "-".join(["bench", *args.only, *filter(None, [args.label])])
    packages = ("torch", "flax", "equinox", "scikit-learn")
    record(name, args, values, packages, module="bench")


def table(result: dict) -> list[list[str]]:
    """README's table: seconds an epoch, and how many times jaxnn's in brackets."""
    values = result["values"]
    names = list(values["784-30-10"]["programs"])
    rows = [["seconds an epoch (times jaxnn's)", *TASKS]]
    for name in names:
        cells = []
        for task in TASKS:
            found = values[task]["programs"].get(name)
            cells.append(
                f"{found['median']:.2f} ({found['times_jaxnn']:.2f})" if found else "-"
            )
        rows.append([name.replace("_", " "), *cells])
    return rows


if __name__ == "__main__":
    main(Args, run)
