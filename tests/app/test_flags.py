"""The flags of the command line: their help, and what was meant by one that is none."""

import subprocess
import sys

import pytest

from jaxnn.app import config
from jaxnn.app.flags import GROUPS, OTHER_WORDS, docs_of, flat, help_text
from jaxnn.app.settings import flag
from jaxnn.cli import COMMANDS, main

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


def test_a_short_help_loads_no_jax():
    code = (
        "import sys\nfrom jaxnn.cli import main\n"
        "try: main(['train', '--recipe', 'cnn', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'jax', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "(16x3" in done.stdout  # the recipe's own defaults
    assert len(done.stdout.splitlines()) < 110


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
    assert not {word.replace("-", "_") for word in OTHER_WORDS} & ours
