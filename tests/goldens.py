"""What a commit must not change, bit for bit: its base and this tree side by side.

    python -m tests.goldens BASE [--only draws training ...] [--modes plain optimized]
        [--keep FOLDER]

Both trees run the program below on the same machine, once with most of XLA's
optimizations off and once with all of them. Each array must have the same bits, or be
printed by name and within 1e-6 of its size; whole numbers, texts and keys are equal.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

VOLATILE = {"seconds", "versions", "git", "device", "out", "jaxnn", "when", "command"}
LIMIT = 1e-6


# ---- the program, run in each tree -----------------------------------------------


def rows(count, *shape, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, *shape)).astype(np.float32)


LAYERS = [  # a constructor's call, the shape of one sample
    *((f"{name}()", (3, 5)) for name in ("elu", "gelu", "leaky_relu", "swish")),
    *((f"{name}", (3, 5)) for name in ("relu", "selu", "sigmoid", "softplus", "tanh")),
    *((f"{name}", (5,)) for name in ("softmax", "log_softmax")),
    ("leaky_relu(-0.5)", (5,)), ("gelu(approximate=True)", (5,)),
    ("dense(7)", (5,)), ("dense(3, 'xavier', bias='normal')", (2, 4)),
    ("dense(4, 'orthogonal', bias=False)", (6,)),
    ("conv(4)", (6, 5, 3)), ("conv(4, (3, 2), 2, 'VALID', groups=2)", (5, 6, 2)),
    ("conv(2, (3,), bias='normal', dilation=2)", (8, 3)), ("conv1d(3)", (7, 2)),
    ("conv_transpose(2, 3, 2)", (3, 4, 2)), ("depthwise_conv(3)", (5, 4, 3)),
    ("max_pool(2)", (4, 6, 2)), ("max_pool(3, 2, 'SAME')", (7, 5, 2)),
    ("avg_pool(3, 2, 'SAME')", (5, 4, 2)),
    ("global_avg_pool", (3, 4, 2)), ("global_max_pool", (3, 4, 2)),
    ("batch_norm()", (4, 3, 2)), ("batch_norm(groups=2)", (5,)),
    ("layer_norm()", (2, 5)), ("group_norm(2)", (3, 4)),
    ("dropout(0.3)", (9,)), ("spatial_dropout(0.4)", (3, 4, 5)),
    ("gaussian_noise(0.3)", (6,)), ("standardize(0.3, 0.2)", (4,)),
    ("rnn(3)", (4, 2)), ("rnn(2, True, activation='relu')", (4, 3)),
    ("lstm(3)", (4, 2)), ("lstm(2, True, go_backwards=True)", (4, 3)),
    ("gru(3)", (4, 2)), ("gru(2, True)", (4, 3)),
    ("multi_head_attention(2)", (3, 4)),
    ("multi_head_attention(3, 2, causal=True, bias=False)", (4, 5)),
    ("positional_embedding()", (4, 3)), ("positional_embedding('normal')", (4, 3)),
    ("flatten", (3, 4)), ("reshape(2, 6)", (3, 4)), ("transpose(1, 0)", (3, 4)),
    ("crop(1)", (5, 4, 2)), ("pad(2, 'reflect')", (4, 5, 2)),
    ("upsample(2, 'linear')", (3, 4, 2)),
    ("serial(dense(4), batch_norm(), relu, dropout(0.2), dense(3))", (5,)),
    ("residual(dense(5))", (5,)), ("residual(dense(3), dense(3, bias=False))", (5,)),
    ("parallel(dense(3), dense(2), merge='concatenate')", (5,)),
    ("stack(serial(dense(5), batch_norm(), relu, dropout(0.2)), 3)", (5,)),
    ("repeat(serial(dense(5), batch_norm(), tanh), 3)", (5,)),
    ("remat(serial(dense(5), dropout(0.3), relu))", (5,)),
    ("stack(remat(residual(dense(5))), 3)", (5,)),
    ("share(dense(5), lambda twice: serial(twice, relu, twice, dense(2)))", (5,)),
    ("siamese(dense(3))", (2, 5)), ("freeze(dense(3))", (5,)),
    ("mlp([5, 7, 3], 'tanh', normalize=True, drop_rate=0.1)", (5,)),
]  # fmt: skip


def made(text):
    """The layer that `text` says."""
    from jaxnn import combine, layers

    return eval(text, vars(layers) | vars(combine))  # of the tables of this file


def draws():
    """Initial parameters and states of every layer, and every initializer."""
    import jax

    from jaxnn.layers import INITIALIZERS, initializer

    key = jax.random.key(3)
    for text, shape in LAYERS:
        params, state, out = made(text).init(key, shape)
        yield text, {"params": params, "state": state, "shape": out}
    params, _, _ = made("embedding(5, 3)").init(key, (4,))
    yield "embedding(5, 3)", params
    for name in sorted(INITIALIZERS):
        yield name, initializer(name)(key, (5, 4), np.float32)


def layers():
    """Forward and backward of every layer, in training and in evaluation."""
    import jax

    key = jax.random.key(5)

    def both(net, params, state, x, train):
        y, new, cache = net.forward(params, state, x, key=key, train=train)
        dy = jax.random.normal(jax.random.key(9), y.shape, y.dtype)
        return y, new, net.backward(cache, dy)

    for text, shape in LAYERS:
        net = made(text)
        params, state, _ = net.init(key, shape)
        x = rows(4, *shape) - 0.4
        for train in (True, False):
            run = jax.jit(lambda p, s, x, t=train, net=net: both(net, p, s, x, t))
            yield f"{text} {'train' if train else 'eval'}", run(params, state, x)


def losses():
    """Values and gradients of every loss, by label and by distribution."""
    import jax

    from jaxnn.losses import LOSSES, loss_by_name

    pred, labels = 3 * rows(6, 4) - 1.5, np.arange(6) % 4
    for name, loss in sorted(LOSSES.items()):
        target = rows(6, 4, seed=1)
        target = target / target.sum(-1, keepdims=True)
        given = pred if name not in ("nll", "kl") else jax.nn.log_softmax(pred)
        for kind, y in (("labels", labels), ("rows", target)):
            for reduction in ("mean", "none"):
                try:
                    found = loss(
                        given, y, weights=rows(6, seed=2),
                        class_weights=(1.0, 2.0, 0.5, 1.0), reduction=reduction,
                    )  # fmt: skip
                except ValueError as error:
                    found = type(error).__name__
                yield f"{name} {kind} {reduction}", found
    smooth = loss_by_name("softmax_cross_entropy", 0.1)
    yield "label smoothing", smooth(pred, labels)


def pieces():
    """Penalties, projections, noise, augmentations, optimizers, one by one."""
    import jax

    from jaxnn import augment
    from jaxnn import regularize as r
    from jaxnn.optimizers import optimizer_by_name

    key, params = jax.random.key(1), {"w": rows(5, 4) - 0.5, "b": rows(4) - 0.5}
    x, images = rows(6, 5), rows(6, 9, 9, seed=4)
    for name, penalty in {
        "l1": r.l1(0.1), "l2": r.l2(0.1), "elastic_net": r.elastic_net(0.1),
        "spectral_norm": r.spectral_norm(0.1),
        "sum_penalties": r.sum_penalties(r.l1(0.1), r.l2(0.2)),
        "max_norm": r.max_norm(0.3), "max_spectral_norm": r.max_spectral_norm(0.3),
    }.items():  # fmt: skip
        yield name, jax.jit(penalty)(params)
    yield "clip_gradient", r.clip_gradient(0.1)(params, np.float32(2))
    for name in ("input_noise", "uniform_noise", "sign_noise"):
        yield name, jax.jit(getattr(r, name)(0.2, 0.1))(key, x)
    yield "weight_noise", jax.jit(r.weight_noise(0.2))(key, params)
    yield "mixup", jax.jit(r.mixup(0.4, 4))(key, x, np.arange(6) % 4, rows(6))
    warp = augment.random_warp(rotate=10, elastic=1.0)
    for name, changed in {
        "random_shift": augment.random_shift(2), "random_flip": augment.random_flip(),
        "random_erase": augment.random_erase(3),
        "random_warp": augment.random_warp(rotate=20, scale=0.1, shear=0.2, shift=2),
        "chain": augment.chain(augment.random_flip(), warp),
    }.items():  # fmt: skip
        yield name, jax.jit(changed)(key, images)
    for name in (
        "sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam",
        "adamw", "nadam", "lamb", "lion",
    ):  # fmt: skip
        optimizer = optimizer_by_name(name, None, "onecycle", 8)

        def steps(params, optimizer=optimizer):
            state = optimizer.init(params)
            for _ in range(3):
                updates, state = optimizer.update(params, state, params)
                params = jax.tree.map(lambda a, b: a + b, params, updates)
            return params

        yield name, jax.jit(steps)(params)


def problem(*shape, count=200, classes=3):
    """Images as uint8 or, of two axes, floats, around a center a class."""
    rng = np.random.default_rng(8)
    centers, y = rng.uniform(size=(classes, *shape)), rng.integers(0, classes, count)
    x = centers[y] * 0.7 + 0.3 * rng.uniform(size=(count, *shape))
    return (255 * x).astype(np.uint8), y.astype(np.int32)


def trainings():
    """name -> (network, data, settings of `fit`): 20 steps each."""

    from jaxnn import augment, defenses, regularize
    from jaxnn.losses import loss_by_name
    from jaxnn.optimizers import optimizer_by_name as optimizer

    image, color = problem(8, 8), problem(8, 8, 2)
    bad = image[0] / np.float32(255)
    bad[7] = 3e38  # one step in five overflows
    sequence = (problem(6, 4)[0] / np.float32(255), problem(6, 4)[1])
    l2, shift = regularize.l2, augment.random_shift(1)
    smooth = loss_by_name("softmax_cross_entropy", 0.1)
    small = "serial(standardize(.4, .2), flatten, mlp([64, 12, 3]))"
    return {
        "mlp": (small, image, {
            "optimizer": optimizer("adamw", 0.01, weight_decay=0.1),
            "penalty": l2(0.01), "clip_norm": 1.0, "ema": 0.9,
            "validation": (image[0][:40], image[1][:40]),
        }),
        "cnn": (
            "serial(conv(4), relu, max_pool(2), conv(6, 3, 2), relu, flatten,"
            " dense(3))", color, {
                "augment": augment.chain(shift, augment.random_erase(2)),
                "weights": rows(200),
            },
        ),
        "norms": (
            "serial(flatten, dense(12), batch_norm(), relu, dropout(.2), dense(3))",
            image, {"loss": smooth, "mixup": regularize.mixup(0.4, 3),
                    "project": regularize.max_norm(1.0)},
        ),
        "residual": (
            "serial(flatten, dense(8), stack(residual(remat(serial(dense(8),"
            " layer_norm(), gelu()))), 3), dense(3))",
            image, {"class_weights": "balanced"},
        ),
        "lstm": ("serial(lstm(5), dense(3))", sequence, {
            "weight_noise": regularize.weight_noise(0.05), "clip_value": 0.1,
            "optimizer": optimizer("nesterov", 0.1, "cosine", 20),
        }),
        "seeds shared": (small, image, {"seeds": [3, 4, 5], "augment": shift}),
        "seeds apart": (
            "serial(flatten, dense(12), batch_norm(), relu, dropout(.2), dense(3))",
            image, {"seeds": [3, 4], "shuffle": "per-seed", "penalty": l2(0.01)},
        ),
        "float16": (small, image, {"dtype": "float16"}),
        "bad steps": (small, (bad, image[1]), {}),
        "pgd": (small, image, {"defense": defenses.pgd(0.1, 3)}),
        "fgsm_rs": (small, image, {"defense": defenses.fgsm_rs(0.1)}),
        "fgsm_mix": (small, image, {"defense": defenses.fgsm_mix(0.1)}),
        "trades": (small, image, {"defense": defenses.trades(0.1)}),
        "free": (small, image, {"defense": defenses.free(0.1, 2)}),
        "ibp": (small, image, {"defense": defenses.ibp(0.1)}),
    }  # fmt: skip


def training():
    """Parameters, state and numbers of every epoch after 20 steps."""
    from jaxnn.train import fit

    for name, (net, data, given) in trainings().items():
        history = fit(made(net), data, epochs=4, batch=40, **given)
        numbers = [{k: v for k, v in e.items() if k != "seconds"}
                   for e in history.epochs]  # fmt: skip
        yield name, (history.params, history.state, numbers, history.stopped)


MORE_ATTACKS = {  # cases besides each attack x norm
    "pgd": [
        {"restarts": 2}, {"early_stop": True}, {"targeted": True},
        {"loss": "margin"}, {"loss": "dlr"},
    ],
    "apgd": [{"restarts": 2}, {"loss": "dlr"}, {"targeted": True}],
    "noise": [{"kind": k} for k in ("gaussian", "signs", "salt_and_pepper")],
    "corruptions": [
        {"kind": "blur", "amount": 2.0}, {"kind": "rotation", "amount": 30.0},
        {"kind": "translation", "amount": 2.0},
    ],
    "targeted_descent": [{"proximity": 0.1}],
}  # fmt: skip


def attacks():
    """Every attack x norm with a key, on a small network."""
    import jax

    from jaxnn import attacks as module
    from jaxnn.attacks import ATTACKS, Classifier

    net = made("serial(standardize(.4, .2), flatten, mlp([64, 12, 3]))")
    params, state, _ = net.init(jax.random.key(2), (8, 8))
    model = Classifier(net, params, state)
    x = rows(24, 8, 8, seed=6)
    y = np.where(np.arange(24) % 6, np.asarray(model.logits(x)).argmax(-1), 0)
    for name, attack in sorted(ATTACKS.items()):
        usual = {
            "epsilon": 0.1, "key": jax.random.key(4), "kind": "uniform", "steps": 6,
            "queries": 20, "directions": 8, "searches": 3,
        }  # fmt: skip
        if name == "corruptions":
            usual |= {"kind": "contrast", "amount": 0.5, "tries": 3}
        usual = {k: v for k, v in usual.items() if k in attack.takes}
        norms = attack.norms if "norm" in attack.takes else [None]
        cases = [{} if norm is None else {"norm": norm} for norm in sorted(norms)]
        for case in cases + MORE_ATTACKS.get(name, []):
            given = usual | case
            if "loss" in case:
                given["loss"] = getattr(module, case["loss"])
            words = " ".join(f"{k}={v}" for k, v in case.items())
            yield f"{name} {words}".strip(), attack.run(model, x, y, **given)


def write_digits(folder):
    """Four IDX files of a small problem."""
    for name, count, seed in (("train", 240, 0), ("t10k", 80, 1)):
        x, y = problem(28, 28, count=320)
        part = slice(0, 240) if seed == 0 else slice(240, 320)
        x, y = x[part], y[part].astype(np.uint8)
        head = struct.pack(">4I", 0x803, count, 28, 28)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(head + x.tobytes())
        head = struct.pack(">2I", 0x801, count)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(head + y.tobytes())


def commands():
    """What the commands save: keys, texts and numbers of their JSON, and weights."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "data").mkdir()
        write_digits(folder / "data")
        home = os.environ | {"XDG_CACHE_HOME": f"{scratch}/cache"}
        where = f"--data {folder}/data --quiet"
        for words in (
            f"train --layers 8 --epochs 2 --batch 20 --validation 40 {where} "
            f"--attack-images 30 --out {folder}/run",
            f"train --layers 8 --epochs 2 --batch 20 --validation 40 {where} --seeds 2 "
            f"--attack-images 0 --l2 0.01 --dropout 0.1 --out {folder}/two",
            f"attack {folder}/run --images 40 --attack pgd --steps 5",
            f"attack {folder}/run --images 40 --attack fgsm --norm l2 --epsilon 1",
        ):
            given = [sys.executable, "-m", "jaxnn.cli", *words.split()]
            subprocess.run(given, check=True, env=home, stdout=subprocess.DEVNULL)
        for path in sorted(folder.glob("[rt]*/**/*.json")):
            name = str(path.relative_to(folder))
            text = path.read_text().replace(scratch, "FOLDER")
            yield name, _steady(json.loads(text))
        for path in sorted(folder.rglob("params.npz")):
            with np.load(path) as arrays:
                head = json.loads(str(arrays["__jaxnn__"]))
                yield str(path.relative_to(folder)), dict(arrays) | {"__jaxnn__": head}


def _steady(tree):
    """Without what another run changes."""
    if isinstance(tree, dict):
        kept = {k: _steady(v) for k, v in tree.items() if k not in VOLATILE}
        return kept | dict.fromkeys(tree.keys() & VOLATILE, "")
    return [_steady(v) for v in tree] if isinstance(tree, list) else tree


SECTIONS = (draws, layers, losses, pieces, training, attacks, commands)


def flat(tree, name):
    """(name, array or text) for each leaf, keys and types in the names."""
    if hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if isinstance(tree, dict):
        for key in sorted(tree):
            yield from flat(tree[key], f"{name}.{key}")
    elif isinstance(tree, (tuple, list)):
        for i, each in enumerate(tree):
            yield from flat(each, f"{name}[{i}]")
    elif tree is None or isinstance(tree, (str, bool)) or _is_key(tree):
        yield name, np.asarray(str(tree))
    elif hasattr(tree, "shape") or isinstance(tree, (int, float)):
        array = np.asarray(tree)
        yield name, array.astype(np.float32) if array.dtype.itemsize == 2 else array


def _is_key(tree):
    return "key<" in str(getattr(tree, "dtype", ""))


def program(out, only):
    """Run the sections and save every leaf, a file a section."""
    for section in SECTIONS:
        if section.__name__ in only:
            found = {}
            for name, tree in section():
                found |= dict(flat(tree, name.replace("/", "|")))
            np.savez(out / f"{section.__name__}.npz", **found)


# ---- both trees ------------------------------------------------------------------


def run(tree, out, mode, only):
    """Run the program in that tree; sections that `out` has already are not run."""
    out.mkdir(parents=True, exist_ok=True)
    only = [name for name in only if not (out / f"{name}.npz").exists()]
    env = os.environ | {
        "PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu", "CI": "true",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1" if mode == "plain" else "0",
    }  # fmt: skip
    words = [sys.executable, "-", "--program", str(out), "--only", *only]
    source = Path(__file__).read_bytes()
    if only:
        subprocess.run(words, cwd=tree, env=env, input=source, check=True)


def read(folder, only):
    """The arrays of these sections, by "section: name"."""
    found = {}
    for name in only:
        with np.load(folder / f"{name}.npz") as arrays:
            found |= {f"{name}: {key}": arrays[key] for key in arrays}
    return found


def compare(base, head):
    """Lines of what differs, and whether it is too much."""
    lines, failed = [], False
    for name in sorted(base):
        if name not in head:
            lines.append(f"only in base: {name}")
            failed = True
            continue
        a, b = base[name], head[name]
        if a.dtype == b.dtype and a.tobytes() == b.tobytes() and a.shape == b.shape:
            continue
        if a.dtype != b.dtype or a.shape != b.shape or a.dtype.kind not in "fc":
            lines.append(f"DIFFERS: {name}: {a!r:.200} -> {b!r:.200}")
            failed = True
            continue
        with np.errstate(all="ignore"):
            size = np.abs(a[np.isfinite(a)]).max(initial=0) or 1
            off = np.where(a == b, 0, np.abs(a - b)) / size
            off = np.where(np.isnan(a) & np.isnan(b), 0, off).max(initial=0)
        bad = not off <= LIMIT
        lines.append(f"{'DIFFERS' if bad else 'rounding'}: {name}: {off:.1e}")
        failed |= bad
    more = sorted(head.keys() - base.keys())
    lines += [f"{len(more)} only in head: {', '.join(more[:4])} ..."] if more else []
    return lines, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", nargs="?", help="the commit to compare this tree with")
    sections = [section.__name__ for section in SECTIONS]
    parser.add_argument("--only", nargs="+", default=sections, choices=sections)
    modes = ("plain", "optimized")
    parser.add_argument("--modes", nargs="+", default=modes, choices=modes)
    parser.add_argument("--keep", type=Path, help="where the base's arrays stay")
    parser.add_argument("--program", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.program:
        return program(given.program, given.only)
    root, failed = Path(__file__).resolve().parent.parent, False
    git = ["git", "-C", str(root)]
    commit = subprocess.check_output([*git, "rev-parse", given.base], text=True).strip()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        tree, kept = scratch / "tree", (given.keep or scratch) / _program_of(commit)
        add = [*git, "worktree", "add", "-q", "--detach", str(tree), commit]
        subprocess.run(add, check=True)
        try:
            for mode in given.modes:
                run(tree, kept / mode, mode, given.only)
                run(root, scratch / mode, mode, given.only)
                base, head = (read(f / mode, given.only) for f in (kept, scratch))
                lines, bad = compare(base, head)
                text = f"{mode}: {len(base)} arrays, {len(lines)} differ"
                print("\n  ".join([text, *lines]), flush=True)
                failed |= bad
        finally:
            remove = [*git, "worktree", "remove", "--force", str(tree)]
            subprocess.run(remove, check=True)
    return int(failed)


def _program_of(commit):
    """A name for what that commit gives here: other programs give other arrays."""
    source = Path(__file__).read_text("utf-8").partition("\n# ---- both trees")[0]
    short = hashlib.sha256(source.encode()).hexdigest()[:12]
    return f"{commit[:12]}-{short}-{importlib.metadata.version('jaxlib')}"


if __name__ == "__main__":
    sys.exit(main())
