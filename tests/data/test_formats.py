"""Data in the forms that people have, from a file or a folder to rows."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxnn.cli import main
from jaxnn.data import load, write_idx
from jaxnn.errors import JaxnnError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (60, 8, 8)).astype(np.uint8)
Y = np.arange(60) % 3
NAMES = ("cat", "dog", "emu")


def read(path, **options):
    words: list[str] = []
    return load(path, say=words.append, **options), words


def pictures(folder, images=X, labels=Y, mode="L"):
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / NAMES[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert(mode).save(folder / NAMES[label] / f"{i:03}.png")
    return folder


def csv(path, header=True, labels=Y):
    rows = np.column_stack([*([] if labels is None else [labels]), X.reshape(60, -1)])
    names = [*([] if labels is None else ["label"]), *(f"pixel{i}" for i in range(64))]
    np.savetxt(path, rows, "%d", ",", header=",".join(names) * header, comments="")
    return path


@pytest.mark.parametrize(
    "change",
    [{}, {"y": Y[:, None]}, {"x": X.astype(np.int64)}, {"x": X[..., None]},
     {"x": X.astype(np.float64)}, {"y": Y.astype(np.float32)}, {"y": Y.astype(bool)}],
    ids=["bytes", "column", "whole", "channel", "floats", "float labels", "two"],
)  # fmt: skip
def test_keras_archives_are_read(change, tmp_path):
    arrays = {"x": X, "y": Y} | change
    x, y = arrays["x"], arrays["y"]
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    data, words = read(tmp_path / "a.npz")
    assert (data.test.x == X[:9]).all()
    assert data.test.x.dtype == np.uint8
    assert (data.test.y == y[:9].reshape(-1)).all()
    assert data.test.y.dtype == np.int32
    assert [len(split.y) for split in data[1:4]] == [54, 6, 9]
    assert len(words) == 1
    assert "a tenth, 6, are taken" in words[0]


def test_floats_in_0_1_stay_and_words_become_the_names_of_classes(tmp_path):
    x = (X / 255).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=np.array(NAMES)[Y])
    data, words = read(tmp_path / "a.npz", validation=0)
    assert data.names == NAMES
    assert data.train.x.dtype == np.float32
    assert len(data.test.y) == 10
    assert "a sixth" in words[0]
    assert np.bincount(data.test.y).min() == 3  # of each class
    together = np.concatenate([data.train.x, data.test.x])
    assert sorted(together.sum((1, 2))) == sorted(x.sum((1, 2)))


@pytest.mark.parametrize("header", [True, False])
def test_a_csv_of_pixels_is_read_and_splits_itself(header, tmp_path):
    data, words = read(csv(tmp_path / "digits.csv", header), validation=0)
    assert data.train.x.shape == (50, 8, 8)
    assert data.train.x.dtype == np.uint8
    rows = {x.tobytes(): label for x, label in zip(X, Y, strict=True)}
    for split in (data.train, data.test):
        assert [rows[x.tobytes()] for x in split.x] == split.y.tolist()
    assert "kept apart" in words[0]


def test_kaggles_folder_says_that_its_test_file_has_no_labels(tmp_path):
    csv(tmp_path / "train.csv")
    csv(tmp_path / "test.csv", labels=None)
    data, words = read(tmp_path, validation=0)
    assert len(data.train.y) == 50
    assert "has no labels" in words[0]


def test_pictures_are_made_alike_and_a_bad_one_is_named(tmp_path):
    folder = pictures(tmp_path / "set" / "train")
    pictures(tmp_path / "set" / "test", X[:6], Y[:6])
    large = Image.fromarray(X[0]).resize((16, 16), Image.Resampling.NEAREST)
    large.save(folder / "cat" / "000.png")
    red = Image.merge("RGB", [Image.fromarray(c) for c in (X[1], 0 * X[1], 0 * X[1])])
    red.save(folder / "dog" / "001.png")
    (folder / "emu" / "002.png").write_bytes(b"no picture")
    (folder / "emu" / "notes.txt").write_text("ignored")
    data, words = read(tmp_path, validation=0)  # the only folder in it is entered
    assert data.names == NAMES
    assert data.train.x.shape == (59, 8, 8)
    assert (data.train.x[0] == X[0]).all()  # blocks of 2 x 2, averaged
    assert (data.test.x == X[[0, 3, 1, 4, 2, 5]]).all()
    for count, word in zip(("1 of 66", "1 of 65", "1 of 65"), words, strict=True):
        assert f": {count} pictures" in word
    assert "002.png" in words[0]
    assert "color" in words[1]
    assert "8 x 8" in words[2]


@pytest.mark.parametrize("kind", ["idx", "pictures", "npz"])
def test_an_archive_as_it_was_downloaded_is_read(kind, tmp_path):
    inside = tmp_path / "mine" / "raw"
    inside.mkdir(parents=True)
    if kind == "idx":
        for name, array in (("images.idx3-ubyte", X), ("labels.idx1-ubyte", Y)):
            for part in ("train", "t10k"):
                write_idx(inside / f"{part}-{name}", array.astype(np.uint8))
    elif kind == "pictures":
        pictures(inside)
    else:
        np.savez(inside / "x.npz", x=X, y=Y)
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for path in inside.rglob("*"):
            archive.write(path, path.relative_to(tmp_path))
    data, _ = read(tmp_path / "mine.zip", validation=0)
    assert data.name == "mine.zip"
    assert data.train.x.shape[1:] == (8, 8)
    assert data.classes == 3


def broken(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"no such thing")
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: broken(p, "a.npz"), "cannot be read.*x_train"),
        (lambda p: broken(p, "a.zip"), "damaged archive.*zip"),
        (lambda p: broken(p, "a.csv"), "no table of numbers"),
        (lambda p: csv(p / "a.csv", labels=None), "no column of labels"),
        (lambda p: np.savez(p / "a.npz", a=X) or p / "a.npz", "arrays a.*expected"),
        (lambda p: np.savez(p / "a.npz", x=X, y=Y[1:]) or p / "a.npz", "59 labels"),
        (
            lambda p: np.savez(p / "a.npz", x=X[:4], y=Y[:4]) or p / "a.npz",
            "at least 6",
        ),
        (
            lambda p: np.savez(p / "a.npz", x=X / 100, y=Y) or p / "a.npz",
            r"float pixels from 0 to 2.55, expected \[0, 1\]",
        ),
        (
            lambda p: np.savez(p / "a.npz", x=np.array([{}]), y=Y) or p / "a.npz",
            "cannot be read",
        ),
    ],
)
def test_what_cannot_be_read_is_named(make, words, tmp_path):
    path = make(tmp_path)
    with pytest.raises(JaxnnError, match=words) as error:
        read(path)
    assert path.name in str(error.value)


def test_a_class_that_only_the_test_pictures_have_is_named(tmp_path):
    pictures(tmp_path / "train", X[:9], Y[:9] % 2)
    pictures(tmp_path / "test", X[:9], Y[:9])
    with pytest.raises(JaxnnError, match="emu: got a class that"):
        read(tmp_path)


def test_the_command_line_trains_on_pictures(tmp_path, monkeypatch, capsys):
    pictures(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    words = ["--layers", "4", "--epochs", "1", "--batch", "9", "--attack-images", "0"]
    assert main(["train", "--data", "mine", *words, "--out", "run"]) == 0
    err = capsys.readouterr().err
    assert "note: mine: no test images" in err
    assert "a tenth, 5, are taken" in err
    assert main(["eval", "run"]) == 0


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(JaxnnError, match="Permission denied, expected a folder"):
        read(tmp_path)
