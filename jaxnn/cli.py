"""The command line: `jaxnn train`, `eval`, `predict`, `data`.

Nothing heavy is imported until a command is known to be well-formed.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxnn import __version__
from jaxnn.errors import JaxnnError, lookup
from jaxnn.streams import open_streams


class Command(NamedTuple):
    """One word after `jaxnn`: what it does, and the function that does it."""

    summary: str
    run: Callable[[list[str], float], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0 all well; 1 the job failed; 2 the request cannot be met (bad setting or file);
    130 interrupted.
    """
    started = time.perf_counter()
    with open_streams() as lost:
        status = _run(list(sys.argv[1:] if argv is None else argv), started)
    if lost and status == 0:
        print(f"jaxnn: error: cannot write the output: {lost[0]}", file=sys.stderr)
        return 1
    return status


def _run(words: list[str], started: float) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"jaxnn {__version__}")
        return 0
    try:
        return lookup("command", words[0], COMMANDS).run(words[1:], started)
    except (RuntimeError, AssertionError):
        from jaxnn.environment import no_device

        why = no_device()
        if why is None or _wants_traceback():
            raise
        print(f"jaxnn: error: {why}", file=sys.stderr)
        return 2
    except JaxnnError as error:
        if _wants_traceback():
            raise
        given = getattr(error, "__notes__", ())
        # not JAX's own, on how to see more of its traceback
        notes = "".join(f" ({note})" for note in given if "JAX has" not in note)
        print(f"jaxnn: error: {error}{notes}", file=sys.stderr)
        return 1 if hasattr(error, "history") else 2
    except KeyboardInterrupt:
        print("jaxnn: interrupted", file=sys.stderr)
        return 130


def _wants_traceback() -> bool:
    return bool(os.environ.get("JAXNN_TRACEBACK"))


def _parse(config, words, name, **options):
    import tyro

    return tyro.cli(config, args=words, prog=f"jaxnn {name}", **options)


def _checked(config, words, name, **options):
    """The settings in `words`, found right before anything heavy is imported."""
    from jaxnn.app.settings import check

    parsed = _parse(config, words, name, **options)
    check(parsed)
    return parsed


def _train(words, started) -> int:
    from jaxnn.app.config import RECIPES, TrainCommand, TrainConfig
    from jaxnn.app.settings import check

    recipe, words = _take_recipe(words)
    default = TrainCommand(**vars(_recipe(recipe)))
    description = (
        f"{TrainConfig.__doc__}\n\n--recipe NAME starts from named settings "
        f"({', '.join(RECIPES)}); the other flags still override."
    )
    options = {"description": description}
    command = _parse(TrainCommand, words, "train", default=default, **options)
    if command.resume is not None:
        from jaxnn.app.resuming import check_resumed, saved_command

        default = saved_command(command.resume)
        command = _parse(TrainCommand, words, "train", default=default, **options)
        check_resumed(default, command, recipe)
    check(command)
    from jaxnn.app.train import train_run

    settings = vars(command).copy()
    resume, ranks = settings.pop("resume"), settings.pop("ranks")
    result = train_run(TrainConfig(**settings), started, ranks, resume)
    return 130 if result["stopped"] == "interrupted" else 0


def _recipe(name: str | None):
    from jaxnn.app.config import RECIPES

    return lookup("recipe", "default" if name is None else name, RECIPES)


def _take_recipe(words: list[str]) -> tuple[str | None, list[str]]:
    """Pull `--recipe NAME` or `--recipe=NAME` out of the words."""
    for i, word in enumerate(words):
        if word == "--recipe":
            if i + 1 == len(words):
                raise JaxnnError("--recipe: got no name after it")
            return words[i + 1], words[:i] + words[i + 2 :]
        if word.startswith("--recipe="):
            return word.partition("=")[2], words[:i] + words[i + 1 :]
    return None, words


def _sweep(words, started) -> int:
    from jaxnn.app.config import SweepConfig

    recipe, words = _take_recipe(words)
    default = SweepConfig(network=_recipe(recipe))
    config = _checked(SweepConfig, words, "sweep", default=default)
    from jaxnn.distributed.processes import show_cpu_devices

    show_cpu_devices(config.network.devices or 1)
    from jaxnn.app.sweep import sweep_run

    sweep_run(config, started)
    return 0


def _eval(words, started) -> int:
    del started
    from jaxnn.app.config import EvalConfig

    config = _checked(EvalConfig, words, "eval")
    from jaxnn.app.use import evaluate_run

    evaluate_run(config)
    return 0


def _predict(words, started) -> int:
    del started
    from jaxnn.app.config import PredictConfig

    config = _checked(PredictConfig, words, "predict")
    from jaxnn.app.use import predict_run

    predict_run(config)
    return 0


def _data(words, started) -> int:
    del started
    from jaxnn.app.config import DataConfig

    config = _checked(DataConfig, words, "data")
    from jaxnn.data import command

    if config.action == "list":
        print(command.list_datasets())
        return 0
    if config.name is None:
        raise JaxnnError(
            f"data {config.action}: got no name; expected such as "
            f"`jaxnn data {config.action} mnist`"
        )
    if config.action == "fetch":
        print(command.fetch_dataset(config.name))
        return 0
    intact, table = command.verify_dataset(config.name)
    print(table)
    return 0 if intact else 1


def _attack(words, started) -> int:
    del started
    from jaxnn.app.config import AttackConfig

    config = _checked(AttackConfig, words, "attack")
    from jaxnn.app.attack import attack_run

    attack_run(config)
    return 0


def _robustness(words, started) -> int:
    del started
    from jaxnn.app.config import RobustnessConfig

    config = _checked(RobustnessConfig, words, "robustness")
    from jaxnn.app.attack import robustness_run

    return 0 if robustness_run(config).believable else 1


def _compare(words, started) -> int:
    from jaxnn.app.config import CompareConfig

    config = _checked(CompareConfig, words, "compare")
    from jaxnn.app.compare import compare_run

    return 0 if compare_run(config, started)["passed"] else 1


def _replay(words, started) -> int:
    del started
    from jaxnn.app.config import ReplayConfig

    config = _checked(ReplayConfig, words, "replay")
    from jaxnn.app.replaying import replay_run

    return 0 if replay_run(config) is None else 1


def _demo(words, started) -> int:
    del started
    from jaxnn.app.demo import list_tutorials, run_tutorial

    if words[:1] in ([], ["-h"], ["--help"]):
        print(list_tutorials())
        return 0
    return run_tutorial(words[0], words[1:])


COMMANDS = {
    "train": Command("train a network, test, compare gradients, attack, draw", _train),
    "sweep": Command("train many networks that differ in settings", _sweep),
    "eval": Command("measure a saved run on all test images", _eval),
    "predict": Command("read digits from picture files with a saved run", _predict),
    "attack": Command("attack the test images of a saved run", _attack),
    "robustness": Command("worst case over many attacks, with checks", _robustness),
    "compare": Command("compare gradients by hand with jax.grad and others", _compare),
    "replay": Command("run the bad step of a run again, name the culprit", _replay),
    "data": Command("list, verify or fetch data sets", _data),
    "demo": Command("list the tutorials, or run one: jaxnn demo NAME", _demo),
}


def _help() -> str:
    lines = [f"  {name:<12}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxnn COMMAND [FLAGS]",
            "",
            "Neural networks you can see through: every backward pass is by hand.",
            "",
            *lines,
            "",
            "`jaxnn train` alone runs the main job; jaxnn COMMAND --help shows flags.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
