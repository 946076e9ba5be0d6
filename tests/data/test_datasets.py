"""Splits and samples are seeded and exact; data that does not fit together is named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn.data import (
    from_arrays,
    load,
    pixel_statistics,
    read_idx,
    stratified_sample,
    write_idx,
)
from jaxnn.data.idx import content_sha256
from jaxnn.data.sources import PARTS, SOURCES, Source
from jaxnn.errors import JaxnnError


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXNN_DATA", raising=False)


@pytest.fixture(scope="module")
def mnist():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAXNN_DATA", raising=False)
        return load()


def _arrays(n=12, tests=4, dtype=np.uint8):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (n + tests, 5, 6)).astype(np.uint8)
    x = x if dtype == np.uint8 else (x / 255).astype(dtype)
    y = (np.arange(n + tests) % 3).astype(np.uint8)
    return [x[:n], y[:n], x[n:], y[n:]]


X, Y, XT, YT = _arrays()
NAMES = tuple(PARTS.values())


def _folder(path, arrays):
    for name, array in zip(NAMES, arrays, strict=True):
        write_idx(path / name, array)
    return path


def test_mnist_is_the_published_one(mnist):
    assert mnist.name == "mnist"
    assert mnist.classes == 10
    shapes = [
        (s.x.shape, s.y.shape) for s in (mnist.train, mnist.validation, mnist.test)
    ]
    assert shapes == [((n, 28, 28), (n,)) for n in (55_000, 5_000, 10_000)]
    assert all(s.x.dtype == np.uint8 for s in (mnist.train, mnist.test))
    assert all(s.y.dtype == np.int32 for s in (mnist.train, mnist.test))
    both = np.bincount(mnist.train.y) + np.bincount(mnist.validation.y)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert both.tolist() == counts
    for name, expected in zip(NAMES, SOURCES["mnist"].sha256.values(), strict=True):
        assert content_sha256(mnist.folder / f"{name}.gz") == expected


def test_the_splits_of_mnist_cover_the_file_once_in_its_order(mnist):
    x = read_idx(mnist.folder / f"{NAMES[0]}.gz")
    order = np.random.default_rng(0).permutation(60_000)
    held_out = np.sort(order[:5000])
    np.testing.assert_array_equal(mnist.validation.x, x[held_out])
    rest = np.ones(60_000, bool)
    rest[held_out] = False
    np.testing.assert_array_equal(mnist.train.x, x[rest])


def test_the_statistics_of_mnist_are_the_usual_ones(mnist):
    mean, std = pixel_statistics(mnist.train.x)
    assert (round(mean, 4), round(std, 4)) == (0.1307, 0.3081)
    few = mnist.train.x[:4000]
    want = np.mean(few / 255), np.std(few / 255)
    np.testing.assert_allclose(pixel_statistics(few), want, rtol=1e-12)


def test_statistics_are_exact_where_floats_cancel():
    x = np.full((3, 70_000), 255, np.uint8)
    assert pixel_statistics(x) == (1.0, 0.0)
    assert pixel_statistics(np.array([0.0, 1.0], np.float32)) == (0.5, 0.5)
    with pytest.raises(JaxnnError, match=r"got no pixels, shape \(0, 3\)"):
        pixel_statistics(x[:0, :3])
    x[0, 0] = 254
    n = x.size
    assert pixel_statistics(x)[1] == pytest.approx(np.sqrt(n - 1) / n / 255, rel=1e-14)


def test_a_seed_decides_the_split_and_no_row_is_lost():
    x_train, y_train, x_test, y_test = _arrays()
    one, same, other = (
        from_arrays(x_train, y_train, x_test, y_test, validation=4, split_seed=s)
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.validation.x, same.validation.x)
    assert not np.array_equal(one.validation.x, other.validation.x)
    rows = np.concatenate([one.train.x, one.validation.x]).reshape(12, -1)
    assert sorted(rows.tolist()) == sorted(x_train.reshape(12, -1).tolist())


def test_images_and_labels_stay_together():
    x = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    data = from_arrays(x, np.arange(20), x, np.arange(20), validation=7)
    for split in (data.train, data.validation, data.test):
        np.testing.assert_array_equal(split.x[:, 0, 0], split.y)
        assert np.all(np.diff(split.y) > 0), "in the order of the input"
    assert data.folder is None


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_a_folder_of_ones_own_needs_no_checksums(tmp_path, dtype):
    arrays = _arrays(dtype=dtype)
    data = load(_folder(tmp_path / "mine", arrays), validation=2)
    assert data.name == "mine"
    assert data.classes == 3
    assert data.folder == tmp_path / "mine"
    assert data.train.x.dtype == dtype
    np.testing.assert_array_equal(data.test.x, arrays[2])


def _change(part, change):
    def apply():
        arrays = _arrays(dtype=np.float32)
        arrays[part] = change(arrays[part].copy())
        return arrays

    return apply


def _set(array, index, value):
    array[index] = value
    return array


BAD = {
    "fewer labels": (_change(1, lambda y: y[:-1]), 1, "got 11 labels, expected 12"),
    "label outside": (_change(3, lambda y: _set(y, 2, 9)), 3,
        "got label 9 at index 2 (1 labels like it), expected 0 to 2 (the largest train",
    ),
    "negative label": (_change(1, lambda y: _set(y.astype(np.int16), 5, -1)), 1,
        "got label -1 at index 5 (1 labels like it), expected 0 or more"),
    "float labels": (_change(1, np.float32), 1, "type float32, expected integers"),
    "NaN": (
        _change(0, lambda x: _set(_set(x, (3, 1, 2), np.nan), (4, 0, 0), np.inf)), 0,
        "got 2 NaN or infinite pixels, the first (nan) at index (3, 1, 2), expected"),
    "inf in the test": (_change(2, lambda x: _set(x, (0, 0, 1), -np.inf)), 2,
        "got 1 NaN or infinite pixels, the first (-inf) at index (0, 0, 1)"),
    "floats to 255": (
        _change(0, lambda x: x * 255), 0, "to 255, expected [0, 1]. Rescale them"),
    "signed bytes": (_change(0, lambda x: x.astype(np.int8)), 0, "of type int8, expect",
    ),
    "other size": (_change(2, lambda x: np.swapaxes(x, 1, 2)), 2,
        "got images (6, 5) float32, expected (5, 6) float32 as in"),
    "other type": (_change(2, lambda x: (x * 255).astype(np.uint8)), 2,
        "got images (5, 6) uint8, expected (5, 6) float32"),
    "labels as images": (
        _change(0, lambda x: x[:, 0, 0]), 0, "expected images (N, H, W)"),
    "images as labels": (_change(1, lambda y: y[:, None]), 1, "expected labels (N,)"),
    "no images": (_change(0, lambda x: x[:0]), 0, "(0, 5, 6), expected at least one"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_arrays_and_files_that_do_not_fit_are_named(name, tmp_path):
    make, part, text = BAD[name]
    with pytest.raises(JaxnnError) as caught:
        from_arrays(*make(), validation=2)
    argument = ("x_train", "y_train", "x_test", "y_test")[part]
    assert str(caught.value).startswith(f"{argument}: got ")
    assert text in str(caught.value)
    with pytest.raises(JaxnnError) as caught:
        load(_folder(tmp_path, make()), validation=2)
    assert str(caught.value).startswith(f"{tmp_path / NAMES[part]}: got ")


def _register(monkeypatch, tmp_path, name="tiny", **settings):
    files = _folder(tmp_path / "store" / name, _arrays())
    sums = [content_sha256(files / n) for n in NAMES]
    source = Source(3, 12, 4, "none", (), dict(zip(PARTS, sums, strict=True)))
    monkeypatch.setitem(SOURCES, name, source._replace(**settings))
    monkeypatch.setenv("JAXNN_DATA", str(tmp_path / "store"))
    return files


WRONG = {
    # of a named set: its settings, which file is written anew and how, what is said
    "bytes": ({}, 1, np.zeros(12, np.uint8), r"got SHA-256 [0-9a-f]{64}, expected "
              r"[0-9a-f]{64}.*unset JAXNN_DATA"),
    "bytes as served": ({"of_content": False}, 2, np.zeros((4, 5, 6), np.uint8),
                        "got SHA-256"),
    "a number for images": ({"transposed": True, "sha256": {}}, 0,
                            np.zeros((), np.uint8), "got an array of shape"),
    "labels for images": ({"transposed": True, "sha256": {}}, 0,
                          np.zeros(12, np.uint8), "got an array of shape"),
    "a label": ({"classes": 2, "sha256": {}}, 1, Y,
                r"got label 2 at index 2 .* expected 0 to 1\."),
    "the number of rows": ({"train": 99, "sha256": {}}, 0, X,
                           "got 12 images, expected 99 as in tiny"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_named_set_that_is_another_is_refused(name, tmp_path, monkeypatch):
    settings, part, array, said = WRONG[name]
    files = _register(monkeypatch, tmp_path, **settings)
    if "sha256" not in settings:
        assert load("tiny", validation=2).classes == 3
    write_idx(files / NAMES[part], array)
    with pytest.raises(JaxnnError, match=f"{NAMES[part]}: {said}"):
        load("tiny", validation=0)


def test_transposed_images_are_turned_upright(tmp_path, monkeypatch):
    _register(monkeypatch, tmp_path, transposed=True)
    data = load("tiny", validation=0)
    np.testing.assert_array_equal(data.train.x, _arrays()[0].swapaxes(1, 2))
    assert data.train.x.flags.c_contiguous


def test_labels_that_start_at_one_are_moved_to_zero(tmp_path, monkeypatch):
    arrays = _arrays()
    arrays[1], arrays[3] = arrays[1] + 1, arrays[3] + 1
    _register(monkeypatch, tmp_path, first_label=1, sha256={})
    _folder(tmp_path / "store" / "tiny", arrays)
    assert set(load("tiny", validation=0).train.y) == {0, 1, 2}


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_stratified_sample_is_exact_sorted_and_proportional(labels, fraction, seed):
    labels = np.array(labels)
    n = round(fraction * len(labels))
    rows = stratified_sample(labels, n, seed)
    assert len(rows) == n
    assert np.all(np.diff(rows) > 0)
    np.testing.assert_array_equal(rows, stratified_sample(labels, n, seed))
    for label in np.unique(labels):
        quota = n * np.mean(labels == label)
        assert abs(np.sum(labels[rows] == label) - quota) < 1 + 1e-9


def test_the_largest_remainders_get_the_rows_left_over():
    labels = np.repeat([0, 1, 2], [50, 29, 21])
    rows = stratified_sample(labels, 10, 0)  # 5.0, 2.9, 2.1
    assert np.bincount(labels[rows]).tolist() == [5, 3, 2]


def test_arguments_of_a_wrong_kind_are_named():
    for n in (-1, 4):
        with pytest.raises(JaxnnError, match=rf"got n={n} and labels of shape \(3,\)"):
            stratified_sample(np.array([0, 1, 1]), n, 0)
    for seed in (-1, 1.5, None, True, "0", float("nan")):
        with pytest.raises(JaxnnError, match="split_seed: got "):
            from_arrays(X, Y, XT, YT, validation=1, split_seed=seed)
    for rows in (12, -1, 1.5, True, "5"):
        said = r"validation: got .* expected (0 to 11|a who)"
        with pytest.raises(JaxnnError, match=said):
            from_arrays(X, Y, XT, YT, validation=rows)
    for data in (None, 3, ("mnist",), b"mnist", "a\0b", "~nobody/x"):
        with pytest.raises(JaxnnError, match=r"expected|knows no home"):
            load(data)
    with pytest.raises(JaxnnError, match=r"'mnits'. Did you mean 'mnist'\?.*a folder"):
        load("mnits")


def test_a_label_alone_makes_no_thousand_classes():
    for label in (255, 32767, 2**31 - 1):
        wrong = Y.astype(np.int32)
        wrong[2] = label
        with pytest.raises(JaxnnError, match=rf"got label {label} at index 2"):
            from_arrays(X, wrong, XT, YT, validation=1)
    few = np.where(Y == 0, 3, 7)  # two digits of ten, as they are called
    assert from_arrays(X, few, XT, np.full_like(YT, 3), validation=1).classes == 8


def test_one_class_and_blank_images_are_nothing_to_learn(tmp_path):
    with pytest.raises(JaxnnError, match="got the label 0 only"):
        from_arrays(X, np.zeros_like(Y), XT, YT * 0, validation=1)
    with pytest.raises(JaxnnError, match=r"x_train: got \d+ training images .* all 7"):
        from_arrays(np.full_like(X, 7), Y, XT, YT, validation=1)
    for name, array in zip(NAMES, (np.stack([X] * 3, -1), Y, XT, YT), strict=True):
        write_idx(tmp_path / name, array)
    with pytest.raises(JaxnnError, match=rf"{NAMES[0]}: got color images .*Convert"):
        load(tmp_path, validation=1)
