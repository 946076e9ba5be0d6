"""The flags of the command line: their help, and what was meant by one that is none."""

import subprocess
import sys
from pathlib import Path

import pytest

from jaxnn.app import config
from jaxnn.app.flags import GROUPS, docs_of, flat, help_text, read_words
from jaxnn.app.settings import flag
from jaxnn.cli import COMMANDS, main
from jaxnn.errors import OTHER_WORDS, JaxnnError
from jaxnn.layers import ACTIVATIONS, LAYERS
from jaxnn.losses import LOSSES
from jaxnn.optimizers import OPTIMIZERS

KINDS = {
    name: getattr(config, command.settings)
    for name, command in COMMANDS.items()
    if command.settings
}


def test_every_setting_of_train_stands_in_one_group_and_is_told():
    grouped = " ".join(GROUPS.values()).split()
    assert sorted(grouped) == sorted(flat(config.TrainCommand))
    assert all(docs_of(kind)[name] for kind in KINDS.values() for name in flat(kind))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_the_help_of_a_command_names_its_flags_and_fits(name, whole):
    text = help_text(f"jaxnn {name}", KINDS[name], "About.\n\nMore.", whole, None)
    for setting, row in flat(KINDS[name]).items():
        shown = setting.upper() if row.typed.by_place else f"  {flag(setting)}"
        assert shown in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("width", [60, 80, 300])
def test_help_fits_the_terminal_and_all_of_it_is_told(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    kind = config.TrainCommand
    for whole in (False, True):
        text = help_text("jaxnn train", kind, "About " * 40, whole, None)
        assert max(map(len, text.splitlines())) <= min(width, 100)
    told = " ".join(text.split())
    assert [doc for doc in docs_of(kind).values() if doc not in told] == []


def test_words_are_read_by_the_types_of_settings_and_the_last_flag_counts():
    words = (
        "--lr=.1 --lr .2 --layers 3 --layers 4 dropout:.1 --no-standardize --eps .3 "
        "--batch_norm --output none --noise-shift -1e-1 --local-device-ids 0 1 --seed=7"
    )
    assert read_words("jaxnn train", config.TrainCommand, words.split()) == {
        "lr": 0.2, "layers": ("4", "dropout:.1"), "standardize": False,
        "batch_norm": True, "epsilon": 0.3, "output": None, "noise_shift": -0.1,
        "local_device_ids": (0, 1), "seed": 7,
    }  # fmt: skip
    found = read_words("jaxnn predict", config.PredictConfig, ["run", "a", "b=c"])
    assert found == {"run": Path("run"), "images": (Path("a"), Path("b=c"))}
    for words, said in (
        ("--lr", "--lr: got nothing, expected a number or none"),
        ("--epochs 1.5", "--epochs: got 1.5, expected a whole number"),
        ("--guard x", "--guard: got x, expected skip, raise"),
        ("mnist", "got mnist, where no word is expected"),
    ):
        with pytest.raises(JaxnnError, match=said):
            read_words("jaxnn train", config.TrainCommand, words.split())


def test_help_loads_no_jax_but_for_the_names_that_it_lists():
    code = (
        "import sys\nfrom jaxnn.cli import main\n"
        "def told(*words):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "told('--help')\ntold('train', '--recipe', 'cnn', '--help')\n"
        "assert not {'jax', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "print('WHOLE')\ntold('train', '--help-all')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    short, _, whole = done.stdout.partition("WHOLE")
    assert "(16x3" in short  # the recipe's own defaults
    assert len(short.splitlines()) < 130
    listed = {word.strip(",.();") for word in whole.split()}
    for table in LOSSES, OPTIMIZERS, ACTIVATIONS, LAYERS, config.RECIPES:
        assert {*table} <= listed


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["train", "--learning-rate", "0.1"], "--lr"),
        (["train", "--batch_size=32"], "--batch"),
        (["train", "--hidden", "64"], "--layers"),
        (["train", "--epoks", "3"], "--epochs"),
        (["sweep", "lr=0.1,0.2", "--num-epochs", "3"], "--epochs"),
        (["attack", "runs/x", "--epsilom", "0.1"], "--epsilon"),
        (["lr", "--n-epochs", "1"], "--epochs"),
    ],
)
def test_a_flag_that_is_none_is_told_what_was_meant(words, meant, capsys):
    assert main(words) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_the_words_of_others_are_none_of_ours_and_mean_flags():
    ours = {name for kind in KINDS.values() for name in flat(kind)}
    assert set(OTHER_WORDS.values()) <= ours
    assert not set(OTHER_WORDS) & ours
