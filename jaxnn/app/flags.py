"""The flags of a command: its help, and which one was meant by one that is none."""

import ast
import dataclasses
import difflib
import inspect
import itertools
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import tyro

from jaxnn.app.settings import flag
from jaxnn.errors import JaxnnError

GROUPS = {
    "network": "model layers activation output init bias_init batch_norm standardize",
    "training": "loss label_smoothing optimizer lr weight_decay schedule batch epochs "
    "patience keep guard dtype",
    "seeds": "seeds seed shuffle",
    "regularization": "l1 l2 max_norm spectral_norm max_spectral_norm weight_noise "
    "clip_norm clip_value ema dropout mixup class_weights",
    "augmentation": "augment shift rotate scale shear elastic noise noise_kind "
    "noise_shift binarize",
    "adversarial training": "adversarial epsilon epsilon_ramp attack_steps "
    "attack_step_size alpha beta free_replays",
    "data and output": "data validation attack_images out keep_checkpoints "
    "checkpoint_steps resume quiet",
    "devices and processes": "devices batch_stats coordinator processes process "
    "local_device_ids detect rank_timeout",
}
"""The settings of `jaxnn train` in the order of its help; others are "flags"."""

OTHER_WORDS = {
    "learning-rate": "lr", "learning-rate-init": "lr", "batch-size": "batch",
    "hidden": "layers", "hidden-layers": "layers", "hidden-layer-sizes": "layers",
    "units": "layers", "num-epochs": "epochs", "n-epochs": "epochs",
    "max-iter": "epochs", "eps": "epsilon", "dataset": "data", "optim": "optimizer",
    "scheduler": "schedule", "lr-schedule": "schedule", "criterion": "loss",
    "weight-init": "init", "initializer": "init", "random-seed": "seed",
    "output-dir": "out", "save-dir": "out", "early-stopping": "patience",
    "grad-clip": "clip_norm", "gradient-clip": "clip_norm", "gpus": "devices",
    "precision": "dtype", "verbose": "quiet", "drop-rate": "dropout",
    "val-size": "validation", "validation-size": "validation", "num-steps": "steps",
}  # fmt: skip
"""What other libraries call a setting -> what it is called here."""

COLUMN = 32  # at which a line of the short help tells what its flag does
MANY = 20  # flags from which on a command has a short help, in groups


class Flag(NamedTuple):
    """One setting of a command: its field, type, marks, documentation, default."""

    name: str
    type: Any
    marks: tuple
    doc: str
    default: Any


def flags_of(kind: Any, default: Any = None, told: bool = True) -> Iterator[Flag]:
    """The flags of a configuration, those of the configurations in it among them.

    Unless `told` they come without documentation, which is read from the source.
    """
    hints: dict[str, Any] = {}
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        hints |= inspect.get_annotations(base)
        docs |= _docs(base) if told else {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        annotated = get_origin(hint) is Annotated
        hint, *marks = get_args(hint) if annotated else (hint,)
        value = getattr(default, field.name, field.default)
        if dataclasses.is_dataclass(hint):
            if value is dataclasses.MISSING:
                value = field.default_factory()  # type: ignore[misc]
            yield from flags_of(hint, value, told)
        elif tyro.conf.Positional not in marks:
            doc = docs.get(field.name, "")
            yield Flag(field.name, hint, tuple(marks), doc, value)


def _docs(kind) -> dict[str, str]:
    """The documentation that follows each field of a class, in one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for node, after in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr):
            found[ast.unparse(node.target)] = " ".join(
                str(ast.literal_eval(after.value)).split()
            )
    return found


def check_flags(command: str, kind: Any, words: Sequence[str]) -> None:
    """Raise for a flag that the command has not, with the one that was meant.

    Raises:
      JaxnnError: names both.
    """
    flags = list(flags_of(kind, told=False))
    names = sorted(flag(f.name).removeprefix("--") for f in flags)
    known = set(names)
    for mark in (mark for f in flags for mark in f.marks):
        known |= {a.removeprefix("--") for a in getattr(mark, "aliases", None) or ()}
    for word in words:
        name = word.partition("=")[0].removeprefix("--").replace("_", "-")
        if not word.startswith("--") or name in known or word in ("--", "--help"):
            continue
        if name.removeprefix("no-") in known:
            continue
        meant = flag(OTHER_WORDS.get(name, "")).removeprefix("--")
        near = difflib.get_close_matches(name, names, n=1)
        best = meant if meant in known else near[0] if near else None
        hint = f"; did you mean --{best}?" if best else ";"
        raise JaxnnError(
            f"{command}: there is no flag --{name}{hint} `jaxnn {command} --help` "
            "lists them"
        )


def help_text(command: str, kind: Any, about: str, whole: bool, default: Any) -> str:
    """The help of a command: a line a flag, or with `whole` all that is known of it.

    Args:
      command: its name.
      kind: its configuration.
      about: what it does.
      whole: whether to tell documentation, names and defaults in full.
      default: the configuration that flags override, or None.
    """
    width = min(shutil.get_terminal_size((88, 24)).columns, 100)
    flags = {f.name: f for f in flags_of(kind, default)}
    hints, docs = inspect.get_annotations(kind), _docs(kind)
    others = [n for n, h in hints.items() if tyro.conf.Positional in get_args(h)]
    positional = [
        f"{n.upper()} ..." if "tuple" in str(hints[n]) else n.upper() for n in others
    ]
    lines = [f"usage: {' '.join(['jaxnn', command, *positional, '[FLAGS]'])}", ""]
    for paragraph in about.split("\n\n"):
        lines += [*textwrap.wrap(" ".join(paragraph.split()), width), ""]
    for n in others:
        lines += textwrap.wrap(
            f"  {n.upper():<{COLUMN - 2}}{docs[n]}",
            width,
            subsequent_indent=" " * COLUMN,
        )
    lines += [""] if others else []
    groups = {title: names.split() for title, names in GROUPS.items()}
    if len(flags) < MANY:
        groups, whole = {}, True
    grouped = {name for names in groups.values() for name in names}
    own = [name for name in flags if name not in grouped]
    for title, names in ({"flags": own} | groups).items():
        shown = [flags[name] for name in names if name in flags]
        lines += [title, *(_line(f, whole, width) for f in shown), ""] if shown else []
    if not whole:
        lines.append(f"`jaxnn {command} --help-all` tells all names and defaults.")
    return "\n".join(lines)


def _line(f: Flag, whole: bool, width: int) -> str:
    head = f"  {flag(f.name)} {_metavar(f.type)}".rstrip()
    usual = " ".join(map(str, f.default)) if isinstance(f.default, tuple) else f.default
    if usual in (None, "", False, dataclasses.MISSING):
        usual = ""
    if not whole:
        ending = f" ({textwrap.shorten(str(usual), 24, placeholder=' ..')})"
        ending = ending if usual != "" else ""
        room = max(width - COLUMN - len(ending), 20)
        text = textwrap.shorten(f.doc, room, placeholder=" ..") + ending
        gap = "\n" + " " * COLUMN if len(head) >= COLUMN else ""
        return head.ljust(COLUMN) + gap + text
    text = f"{f.doc} (default: {usual})" if usual != "" else f.doc
    for mark in f.marks:
        if hint := getattr(mark, "help_behavior_hint", None):
            text = f"{f.doc} {hint(str(usual)) if callable(hint) else hint}"
    body = textwrap.wrap(text, width - 8)
    return "\n".join([head, *(" " * 8 + line for line in body)])


def _metavar(kind: Any) -> str:
    """What follows the flag, as in `--lr NUMBER`."""
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    inner = [a for a in get_args(kind) if a is not type(None) and a is not Ellipsis]
    if inner:
        return _metavar(inner[0]) + (" ..." if get_origin(kind) is tuple else "")
    if kind is bool:
        return ""
    return {"int": "N", "float": "NUMBER", "str": "NAME"}.get(kind.__name__, "PATH")
