"""A table of inputs, flags x values: bad ones are refused, good ones are taken."""

import dataclasses
import random
from pathlib import Path
from typing import NamedTuple

import pytest

from jaxnn.app import config as settings
from jaxnn.app import sweep as sweeping
from jaxnn.app import train as training
from jaxnn.app.config import TrainConfig
from jaxnn.app.settings import FINITE, flag, plain_types, rows
from jaxnn.environment import Processes
from tests.app.common import TINY, Reached, refused, run

NO_NUMBER = (
    "nan", "inf", "-inf", "1e400", "x", "", "0x10", "1,5", "1e39", "1e-39", "5e-324",
)  # fmt: skip
NO_COUNT = ("1.5", "nan", "inf", "1e400", "99999999999999999999", "x")
PGD = ("--adversarial", "pgd")
BESIDE = {
    # what a setting needs beside it
    "epsilon": PGD, "epsilon_ramp": PGD, "attack_steps": PGD, "attack_step_size": PGD,
    "alpha": ("--adversarial", "fgsm_mix"), "beta": ("--adversarial", "trades"),
    "free_replays": ("--adversarial", "free"), "weight_decay": ("--optimizer", "adamw"),
}  # fmt: skip


class Flag(NamedTuple):
    """What a flag needs beside it, values that are taken and values that are not."""

    beside: tuple[str, ...]
    good: tuple[str, ...]
    bad: tuple[str, ...]


def number(name, row):
    """The flag of a number, with values at and beyond the ends of its `Range`."""
    low, high, ends = row.bounds
    whole = int in plain_types(row.type)
    good = [min(1, (low + high) / 2), *([low] if ends[0] == "[" else [])]
    bad = [low - 1 if ends[0] == "[" else low]
    if high != FINITE:
        bad.append(high + 1 if ends[1] == "]" else high)
    return Flag(
        BESIDE.get(name, ()),
        tuple(f"{v:g}" for v in good),
        (*(f"{v:.10g}" for v in bad), *(NO_COUNT if whole else NO_NUMBER)),
    )


FLAGS = {
    flag(name): number(name, row)
    for name, row in rows(TrainConfig).items()
    if row.bounds
} | {
    name: Flag(*values)
    for name, values in {
        "--rank-timeout": ((), (), ("0", "-1", "nan", "inf", "x")),
        "--layers": (
            (), ("4", "dense:4"),
            ("0", "-1", "99999999999999999999", "1e3", "2x0", "0x2", "dense:nan",
             "dense:inf", "dense:0", "dense:-5", "dense:1.5", "dropout:nan",
             "dropout:1", "dropout:-1", "nothing", "\u00b2", "dense", "dense:", ":",
             "relu:1:2:3", "1000000000", "dense:1000000000"),
        ),
        "--model": ((), ("mlp",), ("mlpp", "", "serial")),
        "--activation": ((), ("tanh",), ("x", "", "softmax")),
        "--init": ((), ("xavier",), ("x", "")),
        "--bias-init": ((), ("normal",), ("x", "")),
        "--optimizer": ((), ("sgd",), ("x", "")),
        "--schedule": ((), ("step",), ("x", "")),
        "--loss": ((), ("hinge",), ("x", "", "nll")),
        "--output": ((), (), ("x", "", "softmax", "sigmoid", "log_softmax", "relu")),
        "--keep": ((), ("best", "last"), ("x", "")),
        "--guard": ((), ("off", "rollback"), ("x", "")),
        "--shuffle": (("--seeds", "2"), ("per-seed",), ("x", "")),
        "--dtype": ((), ("bfloat16", "float16"), ("x", "float8")),
        "--augment": ((), ("digits",), ("x", "")),
        "--noise-kind": (("--noise", ".1"), ("sign",), ("x", "")),
        "--adversarial": ((), ("fgsm_rs", "none"), ("x", "")),
        "--class-weights": ((), ("balanced",), ("x", "")),
        "--recipe": ((), (), ("x", "")),
        "--data": ((), (), ("no/such/folder", "", "/dev/null", "mnistt")),
        "--resume": ((), (), ("no/such/folder", ".", "/dev/null")),
    }.items()
}  # fmt: skip

TOGETHER = [
    # flag after flag, of which one has no effect, they contradict each other, or the
    # data, the memory or a count has no room for it
    ("--batch", "201"), ("--validation", "240"), ("--shift", "28"), ("--elastic", "28"),
    (*PGD, "--epsilon", "1.1"), ("--epochs", "10000000"), ("--devices", "100000"),
    ("--epsilon", ".2"), ("--eps", ".1"), ("--alpha", ".3"), ("--alpha", ".5"),
    ("--beta", "1"), ("--beta", "6"), ("--free-replays", "4"), ("--free-replays", "2"),
    ("--noise-kind", "sign"), ("--noise-kind", "gaussian"), ("--epsilon-ramp", ".5"),
    ("--noise-kind", "sign", "--noise-shift", ".1"),
    ("--attack-steps", "7"), ("--attack-step-size", ".5"),
    ("--adversarial", "fgsm_mix", "--attack-steps", "3"),
    ("--adversarial", "fgsm_rs", "--attack-steps", "3"),
    ("--adversarial", "free", "--attack-step-size", ".3"),
    ("--adversarial", "free", "--beta", "2"), ("--adversarial", "pgd", "--alpha", ".2"),
    ("--adversarial", "trades", "--free-replays", "2"),
    ("--adversarial", "ibp", "--attack-step-size", "1"),
    ("--adversarial", "trades", "--loss", "mse"),
    ("--adversarial", "trades", "--loss", "hinge"),
    ("--adversarial", "pgd", "--dtype", "float16"),
    ("--patience", "2", "--validation", "0"), ("--keep", "best", "--validation", "0"),
    ("--shuffle", "per-seed"), ("--batch-stats", "ghost"),
    ("--shuffle", "shared"), ("--batch_stats=sync",),  # typed, though the default
    ("--layers", "relu", "--activation", "relu"),
    ("--batch-stats", "ghost", "--batch-norm"),
    ("--batch-stats", "ghost", "--devices", "2"),
    ("--keep-checkpoints", "0", "--checkpoint-steps", "3"),
    ("--model", "linear"), ("--model", "linear", "--layers", "--activation", "tanh"),
    ("--model", "linear", "--layers", "--batch-norm"),
    ("--model", "linear", "--layers", "--dropout", ".1"),
    ("--layers", "relu", "--dropout", ".1"), ("--layers", "relu", "--batch-norm"),
    ("--model", "cnn", "--layers", "2x3", "--dropout", ".1"),
    ("--layers", "relu", "--activation", "tanh"),
    ("--model", "serial", "--layers", "flatten", "dense:3", "--init", "xavier"),
    ("--model", "serial", "--layers", "flatten", "dense:3", "--bias-init", "normal"),
    ("--model", "serial", "--layers", "flatten", "dense:4"),
    ("--model", "serial", "--layers", "flatten", "dense:3", "softmax"),
    ("--model", "serial", "--layers", "flatten", "dense:3", "log_softmax"),
    ("--clip-norm", "1", "--clip-value", "1"),
    ("--loss", "mse", "--label-smoothing", ".1"),
    ("--augment", "digits", "--shift", "0", "--rotate", "0", "--scale", "0", "--shear",
     "0"),
    ("--seed", "4294967295", "--seeds", "2"),
    ("--epochs", "1000000", "--batch", "1", "--adversarial", "free",
     "--free-replays", "99"),
    ("--layers", "100000", "100000"), ("--seeds", "1000", "--layers", "100000"),
    ("--processes", "2"), ("--process", "0"), ("--coordinator", "x"),
    ("--recipe", "nielsen", "--recipe", "cnn"),
]  # fmt: skip

SWEEPS = [
    # axes that a sweep cannot obey, and axes or flags that would change nothing
    *((f"{name}={values}",) for name, values in {
        "data": "mnist,/no/such/folder", "validation": "10,20", "guard": "skip,raise",
        "shuffle": "shared,per-seed", "dtype": "float32,float64", "seeds": "1,2",
        "devices": "1,2", "out": "a,b", "quiet": "true,false",
        "keep_checkpoints": "0,2", "checkpoint_steps": "1,2",
        "attack_images": "0,5", "batch_stats": "sync,ghost",
        "epsilon": ".1,.2", "alpha": ".1,.2", "beta": "1,2", "free_replays": "1,2",
        "attack_steps": "1,2", "attack_step_size": ".1,.2", "epsilon_ramp": ".1,.2",
        "noise_kind": "sign,uniform", "lr": "1,1.0", "seed": "1,1", "resume": "a,b",
        "ranks": "1", "adversarial": "pgd,free", "width": "4,0", "batch": "20,201",
        "layers": "4,4", "output": "softmax,sigmoid", "loss": "hinge,nll",
        "l2": "-1,0", "dropout": "0,1", "noise": "0,nan", "clip_norm": "0,1",
        "init": "he,x", "bias_init": "zeros,x", "activation": "relu,x",
        "optimizer": "sgd,x", "schedule": "step,x", "augment": "none,x", "model": "x",
        "keep": "best,x", "class_weights": "none,x", "ema": "0.9,1",
        "batch_norm": "1,0", "epochs": "0,1", "patience": "0,1", "lr ": "1,2",
    }.items()),
    # a value, and what stands for the same
    ("lr=none,1e-3",), ("label_smoothing=none,.1",), ("keep=none,best",),
    ("ema=none,0",), ("shift=none,0",), ("rotate=0,none", "--augment", "none"),
    ("rotate=none,10", "--augment", "digits"), ("epsilon=none,.1", *PGD),
    ("attack_steps=none,7", *PGD), ("beta=none,1", "--adversarial", "trades"),
    ("attack_step_size=none,1.25", "--adversarial", "fgsm_rs"),
    ("alpha=none,.5", "--adversarial", "fgsm_mix"),
    ("weight_decay=none,1e-4", "--optimizer", "adamw"),
    ("noise_kind=none,gaussian", "--noise", ".1"),
    ("lr=0:1:log", "--random", "3"), ("lr=1:inf", "--random", "3"),
    ("lr=-1:1", "--random", "3"), ("dropout=0:2", "--random", "3"),
    ("lr=nan:1", "--random", "3"), ("lr=1e-3:1e-2", "--random", "0"),
    ("lr=1e-3:1e-2", "--random", "-1"), ("lr=1e-3:1e-2", "--random", "1000000000"),
    ("init=he,xavier", "--random", "9"), ("--random", "3"), ("lr=1,2", "lr=3"),
    ("layers=4,8", "width=4,8"), ("width=4,8", "--model", "linear", "--layers"),
    ("width=4,8", "--layers", "2x3"), ("seed=0,1", "--seeds", "2"),
    ("lr=.1,.2", "--guard", "raise"), ("lr=.1,.2", "--guard", "off"),
    ("lr=.1,.2", "--shuffle", "per-seed"), ("lr=.1,.2", "--attack-images", "3"),
    ("lr=.1,.2", "--shuffle", "shared"), ("lr=.1,.2", "--guard", "skip"),
    ("lr=.1,.2", "--keep-checkpoints", "5"), ("lr=.1,.2", "--checkpoint-steps", "2"),
    ("lr=.1,.2", "--dtype", "float16"), ("lr=.1,.2", "--adversarial", "free"),
    ("lr=.1,.2", "--validation", "0"), ("lr=.1,.2", "--epsilon", ".3"),
    ("lr=.1,.2", "--max-parallel", "0"), ("lr=.1,.2", "--max-parallel", "-1"),
    ("lr=.1,.2", "--seeds", "0"), ("lr=.1,.2", "--seeds", "1000000000"),
    ("lr=.1,.2", "--epochs", "0"), ("lr=.1,.2", "--batch", "0"), (),
    ("lr=.1,.2", "--resume", "nowhere"), ("--resume", "nowhere"),
    ("lr=" + ",".join(f"{i + 1}e-6" for i in range(400)),
     "l2=" + ",".join(f"{i + 1}e-6" for i in range(400))),
]  # fmt: skip

NUMBERS_OF_A_RUN = {
    "attack": {
        "--epsilon": ("-1", "1.5", *NO_NUMBER), "--steps": ("0", *NO_COUNT),
        "--restarts": ("0", "-1"), "--queries": ("0", "-1"),
        "--amount": ("-1", *NO_NUMBER),
        "--step-size": ("0", "-1", *NO_NUMBER), "--seed": ("-1", "4294967296", "x"),
        "--images": ("0", "-2", "1.5", "nan"), "--norm": ("l3", ""),
        "--attack": ("x", ""), "--data": ("no/such/folder", ""),
    },
    "robustness": {
        "--epsilon": ("-1", "1.5", *NO_NUMBER), "--seed": ("-1", "4294967296"),
        "--images": ("0", "-2", "1.5"), "--norm": ("l3", ""), "--level": ("x", ""),
        "--data": ("no/such/folder", ""), "--transfer-from": ("no/such/run",),
    },
    "eval": {"--data": ("no/such/folder", "")},
    "compare": {
        "--dtypes": ("float8", ""), "--epochs": ("3",), "--lr": (".1",),
        "--batch": ("0", "-1"), "--seed": ("-1",), "--dropout": ("1", "-1", "nan"),
        "--l2": ("-1", "nan"), "--output": ("softmax",),
    },
}  # fmt: skip


DRAWN = 60
PLAIN = (
    "--lr", "--l1", "--l2", "--ema", "--max-norm", "--weight-noise", "--schedule",
    "--class-weights", "--optimizer", "--attack-images",
)  # fmt: skip


def cases():
    """Every (flags) of `train` that must be refused."""
    for name, (beside, _, bad) in FLAGS.items():
        yield from ((*beside, name, value) for value in bad)
    yield from TOGETHER


@pytest.fixture
def _no_work(monkeypatch):
    monkeypatch.setattr(training, "train_in", reached)
    monkeypatch.setattr(sweeping, "train_group", reached)


def reached(*args, **options):
    raise Reached


def train(digits, *words):
    return ("train", *TINY, "--data", digits, "--out", "x", *words)


MESSAGES = [
    # what one line must say
    (("--model", "mlpp"), ["unknown model 'mlpp'", "Did you mean 'mlp'", "serial"]),
    (("--layers", "dens:5"), ["unknown layer 'dens'", "dense", "batch_norm"]),
    (("--layers", "dense:x"), ["'x' is not a number"]),
    (("--layers", "relu:1:2"), ["relu:1:2", "dense:128"]),
    (("--layers", "0"), ["width", "at least 1"]),
    (("--layers", "dropout:1.5"), ["dropout", "0 <= rate < 1"]),
    (("--init", "glorot"), ["unknown initializer", "xavier"]),
    (("--optimizer", "adamm"), ["unknown optimizer 'adamm'", "nesterov"]),
    (("--schedule", "cos"), ["unknown schedule", "onecycle"]),
    (("--loss", "hinje"), ["unknown loss", "softmax_cross_entropy"]),
    (("--lr", "-1"), ["lr=-1", "lr > 0"]),
    (("--batch", "1000"), ["batch=1000 but only 200 training rows"]),
    (("--recipe", "nielson"), ["unknown recipe", "nielsen"]),
    (("--data", "no/such/folder"), ["no/such/folder"]),
    (("--mixup", "-1"), ["mixup=-1", "mixup >= 0"]),
    (("--clip-norm", "1", "--clip-value", "1"), ["expected one of them"]),
    (("--ema", "1"), ["ema=1", "0 <= ema < 1"]),
    (("--rotate", "-5"), ["rotate=-5", "0 <= rotate <= 180"]),
    (("--noise", "-1", "--noise-kind", "uniform"), ["noise=-1", "0 <= noise"]),
]


@pytest.mark.usefixtures("_no_work")
def test_one_line_says_what_was_got_and_what_is_expected(digits):
    for words, expected in MESSAGES:
        text = refused(*train(digits, *words))
        assert text.startswith("jaxnn: error: ")
        for part in expected:
            assert part in text, words
    assert "Did you mean 'train'" in refused("trian")
    assert "config.json" in refused("eval", "nowhere")


@pytest.mark.usefixtures("_no_work")
@pytest.mark.parametrize("part", range(4))  # for the processes that share the tests
def test_bad_flags_of_train_are_refused_and_leave_nothing(digits, part):
    for words in list(cases())[part::4]:
        refused(*train(digits, *words))


@pytest.mark.usefixtures("_no_work")
def test_good_flags_of_train_are_taken_and_one_that_stops_leaves_nothing(digits):
    for name, (beside, good, _) in FLAGS.items():
        for value in good:
            found = run(*train(digits, *beside, name, value))
            assert found.status == 0, (name, value, found.err)
            assert not Path("x").exists(), (name, value)


@pytest.mark.usefixtures("_no_work")
@pytest.mark.parametrize("words", SWEEPS, ids=" ".join)
def test_sweeps_that_cannot_be_obeyed_are_refused(digits, words):
    base = ("--data", digits, "--batch", "20", "--validation", "40", "--layers", "4")
    refused("sweep", *base, "--out", "x", *words)


@pytest.mark.usefixtures("_no_work")
def test_flags_drawn_together_are_refused_if_one_of_them_is(digits):
    """The seeded generator: good flags, and then what is refused without them."""
    rng = random.Random(15)
    for words in rng.sample(list(cases()), DRAWN):
        others = [(name, rng.choice(FLAGS[name].good)) for name in rng.sample(PLAIN, 3)]
        refused(*train(digits, *(word for pair in others for word in pair), *words))


@pytest.mark.parametrize("command", NUMBERS_OF_A_RUN)
def test_bad_flags_beside_a_run_are_refused_and_leave_nothing(run_folder, command):
    for name, bad in NUMBERS_OF_A_RUN[command].items():
        for value in bad:
            target = () if command == "compare" else (run_folder,)
            refused(command, *target, name, value, within=run_folder)


@pytest.mark.parametrize(
    "words",
    [("--lr", ".1"), ("--seed", "3"), ("--loss", "mse"), ("--batch", "9"),
     ("--shape", "3")],
)  # fmt: skip
def test_a_comparison_takes_only_what_changes_it(run_folder, words):
    assert "no effect" in refused("compare", run_folder, *words)
    if words != ("--seed", "3"):
        Path("own.py").write_text(
            "def own_forward(x):\n    return 2 * x, ()\n"
            "def own_backward(_, dy):\n    return 2 * dy\nown_inputs = 3.0\n"
        )
        assert "no effect" in refused("compare", "own.py:own", *words)


def test_the_table_is_as_large_as_it_says():
    count = len(list(cases())) + len(SWEEPS)
    count += DRAWN + sum(
        len(v) for flags in NUMBERS_OF_A_RUN.values() for v in flags.values()
    )
    assert count >= 600


def test_every_number_of_every_command_has_bounds():
    for kind in vars(settings).values():
        if not (dataclasses.is_dataclass(kind) and isinstance(kind, type)):
            continue
        for name, row in rows(kind).items():
            if {int, float, tuple[int, ...]} & set(plain_types(row.type)):
                assert row.bounds or kind is Processes, name
