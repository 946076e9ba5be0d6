"""The flags of a command: read, explained, and what was meant by one that is none."""

import ast
import dataclasses
import difflib
import inspect
import itertools
import shutil
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from jaxnn.app.settings import Row, flag, from_json, in_words, plain_types, read, rows
from jaxnn.errors import OTHER_WORDS, JaxnnError
from jaxnn.files import read_json, read_text

GROUPS = {
    "network": "model layers activation output init bias_init batch_norm standardize",
    "training": "loss label_smoothing optimizer lr weight_decay schedule batch epochs "
    "patience keep guard dtype precision from_ freeze",
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

COLUMN = 32  # at which a line of the short help tells what its flag does
MANY = 20  # flags from which on a command has a short help, in groups


def flat(kind: Any) -> dict[str, Row]:
    """The settings of a command, those of the configuration in it among them."""
    found: dict[str, Row] = {}
    for name, row in rows(kind).items():
        inner = dataclasses.is_dataclass(row.type)
        found |= flat(row.type) if inner else {name: row}
    return found


def usual(kind: Any, base: Any = None) -> dict[str, Any]:
    """The values of these settings in `base`, or their defaults where it has none."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        value = getattr(base, field.name, field.default)
        inner = dataclasses.is_dataclass(value) and not isinstance(value, type)
        found |= usual(type(value), value) if inner else {field.name: value}
    return found


def made(program: str, kind: Any, values: Mapping[str, Any]) -> Any:
    """The configuration of these values.

    Raises:
      JaxnnError: one that has no default is missing.
    """
    found = {}
    for name, row in rows(kind).items():
        inner = dataclasses.is_dataclass(row.type)
        found[name] = made(program, row.type, values) if inner else values[name]
        if found[name] is dataclasses.MISSING:
            what = f"got no {name.upper()}, expected {in_words(row.type)}"
            raise JaxnnError(f"{program}: {what}")
    return kind(**found)


def parsed(program: str, kind: Any, words: Sequence[str], about: str) -> Any:
    """The settings of a program; `--help` among the words explains them and ends it."""
    if {"-h", "--help"} & set(words):
        print(help_text(program, kind, about, True, None))
        raise SystemExit(0)
    return made(program, kind, usual(kind) | read_words(program, kind, words))


def read_words(program: str, kind: Any, words: Sequence[str]) -> dict[str, Any]:
    """The settings that the words after `program`, such as `jaxnn train`, give by name.

    Raises:
      JaxnnError: a flag that the command has not (with the one that was meant), a value
        that is none of its type, a word too many.
    """
    known, left, found = flat(kind), list(words), {}
    places = [name for name, row in known.items() if row.typed.by_place]
    flags = {flag(name): name for name in known if name not in places}
    flags |= {row.typed.alias: name for name, row in known.items() if row.typed.alias}
    switches = (n for n, row in known.items() if bool in plain_types(row.type))
    off = {flag(f"no_{name}"): name for name in switches}
    while left:
        word = left.pop(0)
        typed, equals, text = word.partition("=")
        typed, by_place = typed.replace("_", "-"), places and not word.startswith("--")
        name = places[0] if by_place else (flags | off).get(typed)
        if name is None or (typed in off and equals):
            raise JaxnnError(f"{program}: {_unknown(typed, program, flags)}")
        item, many = known[name].type, get_origin(known[name].type) is tuple
        item = get_args(item)[0] if many else item
        if by_place:
            texts, typed = [word], name.upper()
        elif equals:
            texts = [text]
        elif bool in plain_types(item):
            texts = [str(typed not in off)]
        else:
            ends = (
                [i for i, w in enumerate(left) if w.startswith("--")] if many else [1]
            )
            end = min(ends, default=len(left))
            texts, left = left[:end], left[end:]
        try:
            values = tuple(read(part, item) for part in texts)
            earlier = found.get(name, ()) if by_place else ()  # the last flag counts
            found[name] = (*earlier, *values) if many else values[0]
        except (ValueError, IndexError):
            got, wanted = " ".join(texts) or "nothing", in_words(known[name].type)
            raise JaxnnError(f"{typed}: got {got}, expected {wanted}") from None
        if by_place and not many:
            places.pop(0)
    return found


def read_file(program: str, kind: Any, path: str) -> dict[str, Any]:
    """The settings in a .json or .toml file, such as a run's config.json.

    Raises:
      JaxnnError: no such file, settings that the command has not.
    """
    known, found = flat(kind), {}
    try:
        toml = path.endswith(".toml")
        told = tomllib.loads(read_text(path)) if toml else read_json(path)
        told = told.get("config", told)
        items = {k.replace("-", "_"): v for k, v in told.items()}
    except (ValueError, AttributeError) as error:
        raise JaxnnError(f"--config {path}: expected settings ({error})") from error
    items.pop("network", None)  # of a run's: what is known of its data
    for name, value in items.items():
        name = "from_" if name == "from" else name
        if name not in known:
            flags = {flag(n): n for n in known}
            raise JaxnnError(f"--config {path}: {_unknown(flag(name), program, flags)}")
        if known[name].type == tuple[str, ...] and isinstance(value, list):
            value = [str(v) if type(v) is int else v for v in value]  # layers: [64]
        found[name] = from_json(value, known[name].type)
    return found


def _unknown(word, program, flags) -> str:
    """What is wrong with a word that is no flag, and which one was meant."""
    if not word.startswith("--"):
        return f"got {word}, where no word is expected"
    other = word.removeprefix("--").replace("-", "_")
    meant = flag(OTHER_WORDS.get(other, ""))
    near = difflib.get_close_matches(word, map(flag, flags.values()), n=1)
    best = meant if meant in flags else near[0] if near else None
    hint = f"; did you mean {best}?" if best else ";"
    return f"there is no flag {word}{hint} `{program} --help` lists them"


def docs_of(kind: Any) -> dict[str, str]:
    """What the source says of each setting in a comment beside it, or below it."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        source = textwrap.dedent(inspect.getsource(base))
        body, lines = ast.parse(source).body[0].body, source.splitlines()  # type: ignore[attr-defined]
        for node, after in itertools.pairwise([*body, None]):
            if isinstance(node, ast.AnnAssign):
                words = lines[node.end_lineno - 1][node.end_col_offset :].strip(" #")  # type: ignore[operator]
                if isinstance(after, ast.Expr):
                    words = str(ast.literal_eval(after.value))
                if words:  # else what a base says of it
                    found[ast.unparse(node.target)] = " ".join(words.split())
    for row in rows(kind).values():
        found |= docs_of(row.type) if dataclasses.is_dataclass(row.type) else {}
    return found


def help_text(program: str, kind: Any, about: str, whole: bool, base: Any) -> str:
    """The help of a program: a line a flag, or with `whole` all that is known of it.

    Args:
      program: such as `jaxnn train`.
      kind: its configuration.
      about: what it does.
      whole: whether to tell documentation, names and defaults in full.
      base: the configuration that flags override, or None.
    """
    width = min(shutil.get_terminal_size((88, 24)).columns, 100)
    known, docs, values = flat(kind), docs_of(kind), usual(kind, base)
    places = [name for name, row in known.items() if row.typed.by_place]
    shown = [
        f"{name.upper()}{' ...' * (get_origin(known[name].type) is tuple)}"
        for name in places
    ]
    lines = [f"usage: {' '.join([program, *shown, '[FLAGS]'])}", ""]
    for paragraph in about.split("\n\n"):
        lines += [*textwrap.wrap(" ".join(paragraph.split()), width), ""]
    for name in places:
        text, gap = f"  {name.upper():<{COLUMN - 2}}{docs[name]}", " " * COLUMN
        lines += textwrap.wrap(text, width, subsequent_indent=gap)
    lines += [""] if places else []
    groups = {title: names.split() for title, names in GROUPS.items()}
    if len(known) - len(places) < MANY:
        groups, whole = {}, True
    others = known.keys() - {*places, *itertools.chain(*groups.values())}
    own = [name for name in known if name in others]
    for title, names in ({"flags": own} | groups).items():
        told = [
            _line(name, known[name], docs[name], values[name], whole, width)
            for name in names if name in known
        ]  # fmt: skip
        lines += [title, *told, ""] if told else []
    if not whole:
        lines.append(f"`{program} --help-all` tells all names and defaults.")
    return "\n".join(lines)


def _line(name, row, doc, value, whole, width) -> str:
    head = f"  {flag(name)} {_metavar(row.type)}".rstrip()
    default = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    default = "" if value in (None, False) else default
    if whole:
        more = [f"default: {default or None}"] if default or row.names else []
        more += [str(row.names)] if row.names else []
        text = f"{doc} ({'; '.join(more)})" if more else doc
        return "\n".join([head, *(" " * 8 + w for w in textwrap.wrap(text, width - 8))])
    ending = f" ({textwrap.shorten(default, 24, placeholder=' ..')})" if default else ""
    gap = "\n" + " " * COLUMN if len(head) >= COLUMN else ""
    room = max(width - COLUMN, 20)
    told = textwrap.shorten(doc, max(room - len(ending), 20), placeholder=" ..")
    told = textwrap.wrap(told + ending, room)
    return head.ljust(COLUMN) + gap + f"\n{' ' * COLUMN}".join(told)


def _metavar(kind: Any) -> str:
    """What follows the flag, as in `--lr NUMBER`."""
    kind = plain_types(kind)[0]
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"{_metavar(get_args(kind)[0])} ..."
    return {int: "N", float: "NUMBER", str: "NAME", bool: ""}.get(kind, "PATH")
