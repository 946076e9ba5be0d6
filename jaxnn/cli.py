"""The command line: `jaxnn train`, `eval`, `predict`, `data` ...

Nothing heavy is imported until a command is known to be well-formed.
"""

import importlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from jaxnn import __version__
from jaxnn.app.streams import open_streams
from jaxnn.errors import JaxnnError, lookup

EVERYWHERE = """--use FILE.py or MODULE, as often as needed, runs it first: what it
registers (attacks, losses, layers) is known then. --config FILE.json or .toml has
settings, such as a run's config.json; flags override. --device cpu, gpu or cuda:1 says
where to compute, --dpi 300 how many dots an inch pictures have."""


class Command(NamedTuple):
    """One word after `jaxnn`."""

    summary: str
    settings: str  # their class, in `jaxnn.app.config`
    function: str  # MODULE:NAME in `jaxnn.app`; takes the settings
    status: Callable[[Any], int] = lambda found: 0  # by what the function returns
    timed: bool = False  # whether it also takes when the program began


COMMANDS = {
    "train": Command(
        "train a network, test, compare gradients, attack, draw", "TrainCommand",
        "train:train_run", lambda found: 130 * (found["stopped"] == "interrupted"),
        timed=True,
    ),
    "sweep": Command("train many networks that differ in settings",
                     "SweepConfig", "sweep:sweep_run", timed=True),
    "lr": Command("find a learning rate: many side by side, a few steps each",
                  "LRConfig", "lr:lr_run", timed=True),
    "eval": Command("measure a saved run on all test images",
                    "EvalConfig", "use:evaluate_run"),
    "predict": Command("have a saved run name what is on pictures",
                       "PredictConfig", "use:predict_run"),
    "attack": Command("attack the test images of a saved run",
                      "AttackConfig", "attack:attack_run"),
    "robustness": Command(
        "worst case over many attacks, with checks", "RobustnessConfig",
        "attack:robustness_run", lambda found: 1 - all(e.believable for e in found),
    ),
    "compare": Command(
        "compare gradients by hand with jax.grad and others", "CompareConfig",
        "compare:compare_run", lambda found: 1 - found["passed"], timed=True,
    ),
    "export": Command(
        "write a saved run's network as ONNX, for PyTorch, as safetensors",
        "ExportConfig", "exchange:export_run",
    ),
    "import": Command("make a run of a network from elsewhere",
                      "ImportConfig", "exchange:import_run"),
    "replay": Command(
        "run the bad step of a run again, name the culprit", "ReplayConfig",
        "use:replay_run", lambda found: found is not None,
    ),
    "data": Command("list, verify or fetch data sets",
                    "DataConfig", "datasets:data_run", lambda intact: 1 - intact),
    "completion": Command("complete commands and flags in a shell: bash, zsh, fish",
                          "CompletionConfig", "completion:completion_run"),
    "demo": Command("list the tutorials, or run one: jaxnn demo NAME", "", ""),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0 all well; 1 the job failed; 2 the request cannot be met (bad setting or file);
    130 interrupted.
    """
    started = time.perf_counter()
    warnings.formatwarning = _noted
    with open_streams() as lost:
        status = _dispatch(list(sys.argv[1:] if argv is None else argv), started)
    if lost and status == 0:
        print(f"jaxnn: error: cannot write the output: {lost[0]}", file=sys.stderr)
        return 1
    return status


PLAIN = warnings.formatwarning


def _noted(message, category, filename, lineno, line=None) -> str:
    """A warning of jaxnn's own as a note; any other as Python writes it."""
    if category is UserWarning and filename.startswith(os.path.dirname(__file__)):
        return f"jaxnn: note: {message}\n"
    return PLAIN(message, category, filename, lineno, line)


def _run(words: list[str], started: float) -> int:
    """Do what the words ask for; returns the exit status."""
    if not words or words[0] in ("-h", "--help"):
        lines = [f"  {name:<12}{command.summary}" for name, command in COMMANDS.items()]
        print(
            "usage: jaxnn COMMAND [FLAGS]\n\n"
            "Neural networks you can see through: every backward pass is by hand.\n\n"
            + "\n".join(lines)
            + "\n\n`jaxnn train` alone runs the main job; jaxnn COMMAND --help shows "
            "flags."
        )
        return 0
    if words[0] == "--version":
        print(f"jaxnn {__version__}")
        return 0
    command = lookup("command", words[0], COMMANDS)
    if not command.settings:
        from jaxnn.app.demo import demo

        return demo(words[1:])
    devices, words = _take("--device", words)
    dots, words = _take("--dpi", words)
    config, pictures = settings(words[0], command, words[1:]), nullcontext()
    if devices:
        from jaxnn.environment import use_device

        use_device(devices[-1])
    if dots:
        from jaxnn.plots.panels import drawn_at

        pictures = drawn_at(dots[-1])
    module, _, name = command.function.partition(":")
    function = getattr(importlib.import_module(f"jaxnn.app.{module}"), name)
    with pictures:
        found = function(config, started) if command.timed else function(config)
    return int(command.status(found))


def _dispatch(words: list[str], started: float) -> int:
    """`_run`, whose errors become a line and an exit status."""
    try:
        return _run(words, started)
    except (RuntimeError, AssertionError) as error:
        from jaxnn.environment import full_memory, no_device

        why = no_device() or full_memory(error)
        if why is None or os.environ.get("JAXNN_TRACEBACK"):
            raise
        print(f"jaxnn: error: {why}", file=sys.stderr)
        return 2
    except JaxnnError as error:
        if os.environ.get("JAXNN_TRACEBACK"):
            raise
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        print(f"jaxnn: error: {error}{notes}", file=sys.stderr)
        return 1 if hasattr(error, "history") else 2
    except KeyboardInterrupt:
        print("jaxnn: interrupted", file=sys.stderr)
        return 130


def settings(name: str, command: Command, words: list[str]) -> Any:
    """The settings in `words`, found right before anything heavy is imported."""
    from inspect import getdoc  # not above: `jaxnn --help` is there at once

    from jaxnn.app import config
    from jaxnn.app.checks import check
    from jaxnn.app.flags import help_text, made, read_file, read_words, usual
    from jaxnn.app.settings import USED

    USED[:], words = _take("--use", words)
    for target in USED:
        _use(target)
    program, kind = f"jaxnn {name}", getattr(config, command.settings)
    base, recipes, about = None, [], f"{getdoc(kind)}\n\n{EVERYWHERE}"
    files, words = _take("--config", words)
    if name in ("train", "sweep"):
        recipes, words = _take("--recipe", words)
        if len(recipes) > 1:
            raise JaxnnError(f"--recipe: got {' and '.join(recipes)}, expected one")
        recipe = lookup("recipe", ["default", *recipes][-1], config.RECIPES)
        base = recipe if name == "train" else kind(network=recipe)
        about += (
            f"\n\n--recipe NAME starts from named settings ({', '.join(config.RECIPES)}"
            "); the other flags still override."
        )
    if {"-h", "--help", "--help-all"} & set(words):
        print(help_text(program, kind, about, "--help-all" in words, base))
        raise SystemExit(0)
    typed, told = read_words(program, kind, words), {}
    for file in files:
        told |= read_file(program, kind, file)
    found = made(program, kind, usual(kind, base) | told | typed)
    if name == "train" and found.resume is not None:
        from jaxnn.app.folder import check_resumed, read_config

        saved = read_config(found.resume / "config.json").config
        found = made(program, kind, usual(kind, saved) | told | typed)
        check_resumed(saved, found, bool(recipes))
    check(found, typed)
    if USED and getattr(found, "engine", "local") != "local":
        raise JaxnnError(
            f"--use {USED[0]} with --engine {found.engine}: its workers would not know "
            "what that adds; use --engine local"
        )
    return found


def _use(target: str) -> None:
    """Run a file, or import a module, for the tables that it adds to."""
    from pathlib import Path

    from jaxnn.check.user_code import run_file

    if target.endswith(".py") or os.sep in target:
        run_file(Path(target), "--use FILE.py or --use MODULE")
        return
    try:
        importlib.import_module(target)
    except (Exception, SystemExit) as error:
        raise JaxnnError(
            f"--use {target}: cannot be imported ({type(error).__name__}: {error}); "
            "expected FILE.py, or a module that is installed"
        ) from error


def _take(flag: str, words: list[str]) -> tuple[list[str], list[str]]:
    """Pull every `FLAG VALUE` or `FLAG=VALUE` out of the words."""
    values, others = [], []
    left = iter(words)
    for word in left:
        if word == flag:
            value = next(left, None)
            if value is None:
                raise JaxnnError(f"{flag}: got no name after it")
            values.append(value)
        elif word.startswith(f"{flag}="):
            values.append(word.partition("=")[2])
        else:
            others.append(word)
    return values, others


if __name__ == "__main__":
    sys.exit(main())
