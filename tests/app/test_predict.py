"""`jaxnn predict`: pictures become what the network knows; doubts are told."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxnn import layers as nn
from jaxnn import serial
from jaxnn.app import use
from jaxnn.app.build import DataFacts, build, facts_of, load_for
from jaxnn.app.config import SAVED, TrainConfig
from jaxnn.app.folder import Run, data_of, load_run, save_config, save_network
from jaxnn.data import from_arrays
from jaxnn.errors import JaxnnError
from tests.app.common import done, refused, run
from tests.data.test_formats import NAMES, X, Y, pictures

RNG = np.random.default_rng(1)
PHOTO = RNG.integers(0, 256, (40, 60, 3)).astype(np.uint8)


def save_run(folder, facts):
    """A run of an untrained network for images like `facts`."""
    net = serial(nn.flatten, nn.dense(facts.classes))
    config = TrainConfig(model=SAVED, layers=(), standardize=False)
    e = build(config, facts, net=net)
    params, state, _ = net.init(jax.random.key(0), facts.in_shape)
    Path(folder).mkdir()
    save_config(Path(folder), e)
    save_network(Path(folder), {"params": params, "state": state}, e)


@pytest.fixture
def seen(monkeypatch):
    """The images that reach the network, whose outputs are those in `answers`."""
    images, answers = [], []

    def predict(net, params, state, x, **options):
        images.extend(x)
        wide = params[1]["w"].shape[-1]
        default = [np.arange(wide) * 9.0] * len(x)
        return np.array(answers[: len(x)] or default, np.float32)

    monkeypatch.setattr(use, "predict", predict)
    images_and_answers = (images, answers)
    return images_and_answers


def strokes(side, count=60, box=5):
    """Bright strokes on black, each somewhat elsewhere."""
    x = np.zeros((count, side, side), np.uint8)
    for i, image in enumerate(x):
        top, left = (side - box) // 2 + i % 2, (side - 2) // 2 + i // 2 % 2
        image[top : top + box, left : left + 2] = 200 + i % 50
    return x


def facts_for(x, classes=3, names=()):
    y = np.arange(len(x)) % classes
    data = from_arrays(x, y, x, y, validation=0)._replace(names=names)
    return facts_of(data)


@pytest.mark.parametrize("side", [8, 28, 32])
def test_a_mark_is_made_as_those_of_the_training_images(side, seen, tmp_path):
    x = strokes(side)
    save_run("r", facts_for(x))
    large = np.kron(x[0], np.ones((9, 9), np.uint8))
    shown = {
        "same": x[1],
        "large": large,
        "dark": 255 - large,
        "wide": np.pad(large, 40),
    }
    for name, image in shown.items():
        Image.fromarray(image).save(f"{name}.png")
    done("predict", "r", *(f"{name}.png" for name in shown))
    same, *others = seen[0]
    assert (same == x[1]).all()  # as it is
    for image in others:
        like = [np.corrcoef(image.ravel(), a.ravel())[0, 1] for a in x[:4]]
        assert max(like) > 0.9
        assert image.dtype == np.uint8
        assert image.shape == (side, side)


def test_a_photograph_is_taken_whole_gray_or_in_color(seen, tmp_path):
    box = Image.Resampling.BOX
    gray = np.asarray(Image.fromarray(PHOTO).convert("L").resize((12, 8), box))
    noise = RNG.integers(0, 256, (60, 8, 12)).astype(np.uint8)
    save_run("gray", facts_for(noise))
    save_run("color", DataFacts((8, 12, 3), 3, 0.5, 0.3, ground=None, marks=()))
    save_run("channel", DataFacts((8, 12, 1), 3, 0.5, 0.3, ground=None, marks=()))
    save_run("flat", DataFacts((96,), 3, 0.5, 0.3, ground=None, marks=()))
    Image.fromarray(PHOTO).save("photo.png")
    Image.fromarray(PHOTO[:8, :12]).save("small.png")
    for name in ("gray", "color", "channel"):
        done("predict", name, "photo.png", "small.png")
    shapes = [(8, 12)] * 2 + [(8, 12, 3)] * 2 + [(8, 12, 1)] * 2
    assert [image.shape for image in seen[0]] == shapes
    assert (seen[0][3] == PHOTO[:8, :12]).all()
    assert (seen[0][0] == gray).all()
    assert "expected one of pictures" in refused("predict", "flat", "photo.png")
    Image.fromarray(PHOTO * 0 + 200).save("blank.png")
    for name in ("gray", "color"):
        assert "blank.png: got a blank" in refused("predict", name, "blank.png")


def test_dark_things_become_bright_where_those_of_training_are(seen, tmp_path):
    things = RNG.integers(0, 256, (60, 8, 12)).astype(np.uint8)
    things[:, [0, -1]] = things[:, :, [0, -1]] = 0
    save_run("r", facts_for(things))
    Image.fromarray(255 - things[0]).save("dark.png")
    Image.fromarray(things[0]).save("bright.png")
    found = run("predict", "r", "dark.png", "bright.png")
    assert (seen[0] == things[0]).all()
    assert "dark.png: dark and bright exchanged" in found.out
    assert "bright.png: dark" not in found.out


def test_two_marks_none_and_an_unsure_answer_are_told(seen, tmp_path):
    save_run("r", facts_for(strokes(28, box=20), names=NAMES))
    mark = np.kron(strokes(28, box=20)[0], np.ones((3, 3), np.uint8))
    Image.fromarray(mark).save("one.png")
    Image.fromarray(np.concatenate([mark, mark], 1)).save("two.png")
    Image.fromarray(mark * 0).save("none.png")
    seen[1][:] = np.log([[0.7, 0.2, 0.1], [0.3, 0.15, 0.55]])
    found = run("predict", "r", "one.png", "two.png", "none.png")
    assert found.status == 2
    assert "none.png: got a blank picture" in found.err
    table = found.out.splitlines()
    assert table[0].split() == ["picture", "reads", *NAMES]
    assert table[1].split() == ["one.png", "cat", "70.0%", "20.0%", "10.0%"]
    assert [line.split("  ")[-1] for line in table[3:]] == [
        "two.png: two marks, far apart; expected one",
        "two.png: unsure, emu 55% and cat 30%, less than 30 points apart",
    ]
    assert "take care" in table[3]


def test_folders_are_looked_through_and_an_empty_one_is_named(seen, tmp_path):
    save_run("r", facts_for(X, names=NAMES))
    pictures(tmp_path / "set", X[:6], Y[:6])
    (tmp_path / "empty").mkdir()
    found = run("predict", "r", "set", "empty", "set/cat/000.png")
    assert found.status == 2
    assert "empty: got a folder without pictures" in found.err
    rows = [line.split()[0] for line in found.out.splitlines()[1:]]
    files = sorted(
        str(p.relative_to(tmp_path)) for p in Path("set").resolve().rglob("*.png")
    )
    assert rows == [*files, "set/cat/000.png"]
    order = [int(Path(row).stem) for row in rows]
    assert (np.array(seen[0]) == X[order]).all()  # just as they were trained on
    assert "without pictures" in refused("predict", "r", "empty")


def test_of_many_classes_the_likeliest_are_shown(seen, tmp_path):
    letters = tuple("abcdefghijkl")
    save_run("r", facts_for(X, 12, letters))
    Image.fromarray(X[0]).save("a.png")
    out = run("predict", "r", "a.png").out.splitlines()
    assert out[0].split() == ["picture", "reads", "1.", "2.", "3."]
    assert out[1].split()[:4] == ["a.png", "l", "l", "100.0%"]


def test_several_networks_say_so(run_folder, seen, monkeypatch, picture):
    several = load_run(run_folder)
    config = several.config.__class__(**(vars(several.config) | {"seeds": 2}))
    several = several._replace(experiment=several.experiment._replace(config=config))
    monkeypatch.setattr(use, "open_run", lambda folder: several)
    monkeypatch.setattr(
        use, "predict", lambda *a, **k: np.zeros((2, len(a[3]), 3), np.float32)
    )
    assert "2 networks, whose mean this is" in run("predict", "r", picture).out


def test_a_run_of_before_reads_digits_if_it_is_28_by_28(seen, picture):
    save_run("old", DataFacts((28, 28), 3, 0.5, 0.3))
    done("predict", "old", picture)
    rows, columns = np.nonzero(seen[0][0])
    assert np.ptp(rows) + 1 == 20
    assert 13 in columns


def test_a_network_from_the_command_line_names_classes(run_folder, picture):
    head, line, *_ = run("predict", run_folder, picture).out.splitlines()
    assert head.split() == ["picture", "reads", "0", "1", "2"]
    shares = [float(share.rstrip("%")) for share in line.split()[2:]]
    assert sum(shares) == pytest.approx(100, abs=0.3)


def test_a_name_counts_and_not_its_number(tmp_path):
    facts = DataFacts((8, 8), 3, 0.5, 0.3, NAMES)
    experiment = build(TrainConfig(), facts)
    run = Run(tmp_path, experiment, (), ())
    some = [(image, label) for image, label in zip(X, Y, strict=True) if label]
    data = data_of(run, str(pictures(tmp_path / "two", *zip(*some, strict=True))))
    assert data.names == NAMES
    assert set(data.test.y) == {1, 2}
    (tmp_path / "two" / "emu").rename(tmp_path / "two" / "eel")
    with pytest.raises(JaxnnError, match="knows the classes cat, dog, emu; got eel"):
        data_of(run, str(tmp_path / "two"))
    before = Run(tmp_path, build(TrainConfig(), facts._replace(names=())), (), ())
    assert data_of(before, str(tmp_path / "two")).names == ("dog", "eel")
    config = TrainConfig(data=str(pictures(tmp_path / "one", X[1::3], Y[1::3])))
    with pytest.raises(JaxnnError, match="got one class, dog, expected two or more"):
        load_for(config)
