"""Data in the forms that people have, from a file or a folder to rows."""

import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxnn.cli import main
from jaxnn.data import load, write_idx
from jaxnn.data.formats import FORMS
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


@pytest.mark.parametrize("top", [1, 16])
def test_levels_that_end_early_are_made_bytes_with_a_word(top, tmp_path):
    x = X.reshape(60, -1) // (256 // (top + 1))
    np.savez(tmp_path / "a.npz", x_train=x, y_train=Y, x_test=x[:9] // 2, y_test=Y[:9])
    shutil.make_archive(str(tmp_path / "b"), "zip", tmp_path)
    for name in ("a.npz", "b.zip"):
        data, words = read(tmp_path / name, validation=0)
        assert (data.train.x == np.rint(x.reshape(60, 8, 8) * (255 / x.max()))).all()
        assert data.test.x.max() == np.rint(x[:9].max() // 2 * (255 / x.max()))
        assert words == [
            f"{tmp_path / name}: pixels go from 0 to {x.max()}, which is taken for "
            "white, 255"
        ]


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
    assert "the test images have no labels" in words[0]


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


def as_bytes(image):
    held = io.BytesIO()
    Image.fromarray(image).save(held, "PNG")
    return held.getvalue()


def parquet(path, images=X, labels=Y, image="image", label="label", names=NAMES):
    """A file as Hugging Face writes it: pictures as bytes, names in the schema."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    if isinstance(images, np.ndarray):
        images = [{"bytes": as_bytes(a), "path": None} for a in images]
    table = pa.table({image: images} | ({label: labels} if label else {}))
    told = {label: {"names": names, "_type": "ClassLabel"}}
    meta = {"huggingface": json.dumps({"info": {"features": told if names else {}}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table.replace_schema_metadata(meta), path)
    return path


@pytest.mark.parametrize(
    ("train", "test"),
    [("data/train-00000-of-00002", "data/test-00000-of-00001"),
     ("mnist/train/0000", "mnist/test/0000"), ("train", "validation")],
)  # fmt: skip
def test_parquet_as_hugging_face_keeps_it_is_read(train, test, tmp_path):
    parquet(tmp_path / f"{train}.parquet", X[:30], Y[:30])
    parquet(tmp_path / f"{train}x.parquet", X[30:], Y[30:])
    parquet(tmp_path / f"{test}.parquet", X[:9], Y[:9])
    (tmp_path / "README.md").write_text("a card")
    data, words = read(tmp_path, validation=0)
    assert (data.train.x == X).all()
    assert data.train.y.tolist() == Y.tolist()
    assert (data.test.x == X[:9]).all()
    assert data.names == NAMES
    assert len(words) == ("val" in test)


@pytest.mark.parametrize(
    "change",
    [{"names": None}, {"image": "img", "label": "labels"},
     {"images": [as_bytes(a) for a in X]}, {"images": X.reshape(60, -1).tolist()},
     {"images": X.tolist()}, {"images": (X / 255.0).tolist(), "image": "pixels"},
     {"labels": [NAMES[i] for i in Y], "names": None}],
    ids=["no names", "other columns", "bytes", "rows", "rows of rows", "floats",
         "words"],
)  # fmt: skip
def test_a_parquet_file_alone_splits_itself(change, tmp_path):
    data, words = read(parquet(tmp_path / "a.parquet", **change), validation=0)
    assert "a sixth" in words[0]
    rows = {x.tobytes(): label for x, label in zip(X, Y, strict=True)}
    for x, y in (data.train, data.test):
        found = np.rint(x * (1 if x.dtype == np.uint8 else 255)).astype(np.uint8)
        assert [rows[a.tobytes()] for a in found] == y.tolist()
    named = "names" not in change or "labels" in change
    assert data.names == (NAMES if named else ())


def test_pictures_in_parquet_are_made_alike_and_a_bad_one_is_named(tmp_path):
    (tmp_path / "sub").mkdir()
    Image.fromarray(X[2]).save(tmp_path / "sub" / "two.png")
    images = [{"bytes": as_bytes(a), "path": f"{i}.png"} for i, a in enumerate(X)]
    images[0] = {"bytes": as_bytes(np.kron(X[0], np.ones((2, 2), np.uint8)))}
    images[1] = {"bytes": b"no picture"}
    images[2] = {"bytes": None, "path": "sub/two.png"}
    images[3] = {"bytes": as_bytes(np.stack([X[3], 0 * X[3], X[3]], -1))}
    path = parquet(tmp_path / "a.parquet", [{"path": None} | a for a in images])
    (tmp_path / "test.parquet").symlink_to(path)
    (tmp_path / "train.parquet").symlink_to(path)
    data, words = read(tmp_path, validation=0)
    assert (data.train.x[:2] == X[[0, 2]]).all()
    assert len(data.test.y) == 59
    assert "row 1" in words[0]
    assert "2 of 120 pictures cannot be read" in words[0]
    assert "2 of 118 pictures have color" in words[1]
    assert "2 of 118 pictures are made 8 x 8" in words[2]


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        JaxnnError, match=r"pyarrow is not.*install 'jaxnn\[datasets\]'"
    ):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"label": None}, "no column of labels"), ({"names": NAMES[:2]}, "2 .*0 to 1"),
     ({"images": Y.tolist()}, "60 rows of image, label, expected columns image"),
     ({"images": X[:0], "labels": []}, "0 rows of image, label"),
     ({"images": [[1]] * 59 + [[1, 2]]}, "images of 2 lengths"),
     ({"images": [[1]] * 59 + [None]}, "images of 2 lengths"),
     ({"images": [{"bytes": b""}] * 60}, "no picture that can be read.*row 0"),
     ({"labels": [None, *Y[1:].tolist()]}, "labels of type object"), ({}, "cannot be")],
)  # fmt: skip
def test_parquet_that_cannot_be_used_is_named(change, words, tmp_path):
    path = parquet(tmp_path / "a.parquet", **change)
    if not change:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(JaxnnError, match=words) as error:
        read(path)
    assert "a.parquet: got" in str(error.value)


@pytest.mark.parametrize("kind", ["idx", "pictures", "npz", "csv"])
@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
def test_an_archive_as_it_was_downloaded_is_read(kind, ending, tmp_path):
    inside = tmp_path / "mine" / "raw"
    inside.mkdir(parents=True)
    if kind == "idx":
        for name, array in (("images.idx3-ubyte", X), ("labels.idx1-ubyte", Y)):
            for part in ("train", "t10k"):
                write_idx(inside / f"{part}-{name}", array.astype(np.uint8))
    elif kind == "pictures":
        pictures(inside)
    elif kind == "csv":
        csv(inside / "mnist_train.csv")
        csv(inside / "mnist_test.csv")
        (inside / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    else:
        np.savez(inside / "x.npz", x=X, y=Y)
    form = {"zip": "zip", "tar.gz": "gztar"}[ending]
    shutil.make_archive(str(tmp_path / "mine"), form, tmp_path, "mine")
    data, _ = read(tmp_path / f"mine.{ending}", validation=0)
    assert data.name == f"mine.{ending}"
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
        (lambda p: broken(p, "a.tgz"), "damaged archive.*gz"),
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


def test_no_tar_is_unpacked_where_python_cannot_do_it_safely(tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")  # as before 3.11.4
    with pytest.raises(JaxnnError, match="Unpack it, or update Python"):
        read(broken(tmp_path, "a.tar.gz"))


def test_emnist_by_a_path_is_upright_and_letters_count_from_0(tmp_path):
    for part in ("train", "test"):
        for name, array in (("images-idx3", X), ("labels-idx1", Y + 1)):
            path = tmp_path / "raw" / "gzip" / f"emnist-letters-{part}-{name}-ubyte.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_idx(path, array.astype(np.uint8))
    shutil.make_archive(str(tmp_path / "mine"), "zip", tmp_path / "raw")
    for path in (tmp_path / "raw" / "gzip", tmp_path / "raw", tmp_path / "mine.zip"):
        data, words = read(path, validation=0)
        assert (data.test.x == X.swapaxes(1, 2)).all()
        assert set(data.test.y) == {0, 1, 2}
        assert data.names[:3] == ("A", "B", "C")
        assert "label 1 is class 0" in words[0]


def test_notes_beside_folders_of_pictures_are_no_table(tmp_path):
    pictures(tmp_path / "train")
    pictures(tmp_path / "valid", X[:9], Y[:9])
    for place in (tmp_path, tmp_path / "train"):
        (place / "labels.csv").write_text("file,label\n000.png,cat\n")
    data, words = read(tmp_path, validation=0)
    assert (len(data.train.y), len(data.test.y)) == (60, 9)
    assert "valid: images of that name are the test images" in words[0]


def test_a_form_of_ones_own_is_one_entry(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMS, ".mine", lambda path: ((X, Y), (X[:9], Y[:9]), NAMES))
    (tmp_path / "a.mine").write_text("")
    data, _ = read(tmp_path / "a.mine", validation=0)
    assert data.names == NAMES
    assert data.train.x.shape == (60, 8, 8)


def test_parts_that_do_not_fit_together_are_named(tmp_path):
    csv(tmp_path / "train_1.csv")
    np.savetxt(tmp_path / "train_2.csv", np.ones((3, 5)), "%d", ",")
    with pytest.raises(JaxnnError, match=r"train_1\.csv, .*train_2\.csv: got parts"):
        read(tmp_path)


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
    assert json.loads(Path("run/config.json").read_text())["network"]["names"] == [
        *NAMES
    ]
    assert "| classes | cat, dog, emu |" in Path("run/report.md").read_text()
    assert main(["eval", "run"]) == 0


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(JaxnnError, match="Permission denied, expected a folder"):
        read(tmp_path)
