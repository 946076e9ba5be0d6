"""Every picture is written, opens, shows something and stays small."""

import inspect
import os
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import combinations, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from jaxnn import fit, graph, mlp, plots
from jaxnn.app.trained import Trained
from jaxnn.errors import JaxnnError
from jaxnn.graph import picture
from jaxnn.losses import softmax_cross_entropy
from jaxnn.plots import gradients, panels, robustness
from jaxnn.plots import images as of_images
from jaxnn.plots import run as of_runs
from jaxnn.plots.panels import new_figure, save
from jaxnn.plots.robustness import transfer
from jaxnn.plots.run import sweep
from jaxnn.train.rates import RateSearch

MAX_BYTES = 250_000


@pytest.fixture
def path(tmp_path):
    return tmp_path / "picture.png"


def opened(path, at_least=(300, 100)):
    """The picture as RGB uint8 (H, W, 3), checked to be one."""
    assert path.stat().st_size < MAX_BYTES
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    assert at_least[0] <= width <= 1600
    assert at_least[1] <= height <= 1600
    assert pixels.std() > 5, "the picture is blank"
    return pixels


def near(pixels, color):
    """How many pixels have the color '#rrggbb'."""
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(pixels.astype(int) - rgb).max(-1) < 8).sum())


def titles(monkeypatch):
    """Every text of the next pictures, collected as they are saved."""
    texts = []
    write = FigureCanvasAgg.print_png

    def spy(canvas, file):
        found = canvas.figure.findobj(lambda a: hasattr(a, "get_text"))
        texts.extend(t.get_text() for t in found)
        write(canvas, file)

    monkeypatch.setattr(FigureCanvasAgg, "print_png", spy)
    return texts


def test_a_blank_picture_would_be_noticed(path):
    save(new_figure(6, 4), path)
    with pytest.raises(AssertionError, match="blank"):
        opened(path)


# ---------------------------------------------------------------- curves


def history(epochs, seeds=None, validation=True, seed=0):
    """Rows as `fit` returns them; seeds None is one seed, plain numbers."""
    rng = np.random.default_rng(seed)
    rows = []
    for epoch in range(1, epochs + 1):
        noise = rng.normal(0, 0.05, seeds)
        values = {
            "loss": 0.5 / epoch * np.exp(noise),
            "grad_norm": 1 / epoch**0.5 * np.exp(noise),
            "skipped": np.zeros_like(noise),
        }
        if validation:
            values["validation_loss"] = 0.1 + 0.4 / epoch * np.exp(noise)
            values["validation_accuracy"] = 0.98 - 0.1 / epoch + 0.01 * noise
        rows.append(
            {"epoch": epoch} | {k: np.asarray(v).tolist() for k, v in values.items()}
        )
    return rows


CURVES = {
    "one epoch": history(1),
    "one epoch, seeds": history(1, 5),
    "many epochs": history(300, 3),
    "no validation": history(8, 3, validation=False),
    "targets are no labels": [
        row | {"validation_accuracy": float("nan")} for row in history(4)
    ],
    "never finite": [row | {"loss": None, "grad_norm": None} for row in history(3)],
    "infinite": [row | {"loss": float("inf")} for row in history(3)],
    "loss 0 and below": [row | {"loss": 1.0 - row["epoch"]} for row in history(30)],
    "constant": [row | {"loss": 0.0, "validation_accuracy": 1.0} for row in history(3)],
    "no epochs": [],
}


def test_curves_state_the_best_epoch_and_the_ends(path, monkeypatch):
    rows = [
        {"epoch": e, "loss": loss, "grad_norm": 1.0, "skipped": 0, "validation_loss": 1}
        | {"validation_accuracy": accuracy}
        for e, loss, accuracy in ((1, 0.5, 0.9), (2, 0.25, 0.95), (3, 0.125, 0.93))
    ]
    texts = titles(monkeypatch)
    plots.curves(rows, path)
    assert "Best validation accuracy 95.00% (epoch 2)" in texts
    assert "Training loss 0.5 to 0.125" in texts
    assert any(t.startswith("Training: 3 epochs, 1 seed") for t in texts)


def test_over_seeds_the_mean_counts_and_what_is_not_finite_is_marked(path, monkeypatch):
    rows = history(4, 2)
    for i, shares in enumerate(([0.90, 0.99], [0.95, 0.96], [0.5, 0.5], [0.4, 0.4])):
        rows[i]["validation_accuracy"] = shares
    rows[0]["loss"] = [0.5, float("nan")]
    rows[3]["loss"] = [None, None]
    rows[2]["skipped"] = [3, 4]
    texts = titles(monkeypatch)
    plots.curves(rows, path)
    assert "Best mean validation accuracy 95.50% (epoch 2)" in texts
    assert "Training loss 0.5 to not finite" in texts
    assert "not finite" in texts
    assert "steps skipped: 7 in all" in texts


def test_the_axis_is_logarithmic_beyond_a_factor_of_20(path, monkeypatch):
    rows = history(2, validation=False)
    for fall, log in ((19, False), (21, True)):
        rows[0]["loss"], rows[1]["loss"] = 1.0, 1 / fall
        texts = titles(monkeypatch)
        plots.curves(rows, path)
        assert ("loss, log scale" in texts) == log


def test_few_seeds_are_thin_lines_and_many_a_band():
    for seeds, thin, bands in ((1, 0, 0), (3, 3, 0), (20, 0, 1)):
        ax = plots.curves(history(4, seeds, validation=False)).axes[1]
        assert len(ax.lines) == 1 + thin
        assert len(ax.collections) == bands


def test_what_smoothed_labels_leave_of_the_loss_is_drawn():
    config = SimpleNamespace(label_smoothing=0.1, seeds=1)
    e = SimpleNamespace(config=config, data=SimpleNamespace(classes=10))
    trained = Trained(e, None)
    right = np.log(np.full((1, 10), 0.01) + 0.9 * np.eye(10)[:1])
    least, _ = softmax_cross_entropy(right, [0], label_smoothing=0.1)
    np.testing.assert_allclose(trained.floor(), least, rtol=1e-6)
    lines = plots.curves(history(4), floor=0.01).axes[0].lines
    assert [0.01, 0.01] in [list(line.get_ydata()) for line in lines]
    config.label_smoothing = 0.0
    assert trained.floor() is None


def test_names_never_print_over_each_other():
    settings = [
        {"values": {"optimizer": o, "layers": [w, w]}, "validation_accuracy": a}
        for o in ("adam", "momentum", "nesterov", "rmsprop", "adagrad", "adadelta")
        for w, a in (("512", 0.9), ("1024", 0.95), ("16384", 0.5))
    ]
    nets = ["plain", "another plain", "Gaussian noise .3", "PGD-trained within .1"]
    for figure in (
        sweep(settings, ["optimizer", "layers"]), transfer(np.eye(4), nets),
        plots.confusion(np.arange(4), np.arange(4), nets),
    ):  # fmt: skip
        figure.canvas.draw()
        for ax in figure.axes:
            boxes = [t.get_window_extent() for t in ax.get_xticklabels()]
            assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_nothing_is_cut_off_in_silence():
    shares = [0.1, *np.linspace(0.9, 0.95, 19)]
    settings = [{"values": {"lr": 0.1}, "validation_accuracy": a} for a in shares]
    figure = sweep(settings, ["lr"])
    words = " ".join(figure.get_suptitle().split())
    assert "1 below 87.3% not shown" in words
    figure.canvas.draw()
    box = figure.texts[0].get_window_extent()  # of the title; one panel is narrow
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    ax = panels.panels(1)[1][0]
    panels.lines(ax, [1, 2], {"low": [0, 1], "high": [0, 9]}, "x", "y")
    ax.set_ylim(0, 3)
    panels.say_what_is_cut(ax)
    assert [t.get_text() for t in ax.texts] == ["partly above, or not finite: high"]
    assert not of_runs.rates(SEARCH).axes[0].texts
    wild = replace(SEARCH, losses=np.array([[0.5, 0.6], [50.0, 60.0]]))
    (word,) = of_runs.rates(wild).axes[0].texts
    assert word.get_text() == "partly above, or not finite: median"


def test_no_picture_tells_red_from_green():
    image = transfer(np.eye(2), ["a", "b"]).axes[0].images[0]
    low, high = image.cmap([0.0, 1.0])[:, :3]
    assert abs(low.mean() - high.mean()) > 0.4, "told apart by lightness alone"


# ---------------------------------------------------------------- confusion


def guessed(classes):
    """Labels, most of them said, and how many there are."""
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 2000)
    said = np.where(rng.random(2000) < 0.9, labels, rng.integers(0, classes, 2000))
    return labels, said, classes


def test_confusion_counts_right_ones_and_names_the_most_frequent_error(
    path, monkeypatch
):
    labels = np.array([4] * 10 + [9] * 5)
    said = np.array([4] * 7 + [9] * 3 + [9] * 4 + [4])
    texts = titles(monkeypatch)
    plots.confusion(labels, said, 10, path)
    assert (
        "11 of 15 right (73.33%)\nMost frequent error: 4 taken for 9, 3 times" in texts
    )
    assert {"7", "3", "1"} <= set(texts)
    assert {"4   70.0%", "9   80.0%", "0   none"} <= set(texts)


def test_only_errors_have_color(path):
    labels = np.arange(1000) % 10
    plots.confusion(labels, labels, [f"class {i}" for i in range(10)], path)
    pixels = opened(path).astype(int)
    assert np.abs(pixels - pixels.mean(-1, keepdims=True)).max() < 2, "all is gray"
    plots.confusion(labels, np.where(np.arange(1000) == 7, 3, labels), 10, path)
    pixels = opened(path).astype(int)
    assert np.abs(pixels - pixels.mean(-1, keepdims=True)).max() > 50


def test_few_classes_are_annotated_and_many_are_not(path, monkeypatch):
    for classes, annotated in ((20, True), (21, False)):
        texts = titles(monkeypatch)
        labels = np.repeat(np.arange(classes), 77)
        plots.confusion(labels, labels, classes, path)
        assert ("77" in texts) == annotated


# ---------------------------------------------------------------- mistakes


def classified(n=60, classes=10, wrong=40, shape=(28, 28), seed=0):
    """Images uint8 (N, ...), labels (N,), probabilities (N, C); the first are wrong."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    labels = rng.integers(0, classes, n)
    said = labels.copy()
    said[:wrong] = (labels[:wrong] + 1) % classes
    probabilities = rng.dirichlet(np.ones(classes), n) * 0.3
    probabilities[np.arange(n), said] += 0.7
    return images, labels, probabilities


MISTAKES = {
    "uint8 images": classified(), "flat": classified(shape=(784,)),
    "with a channel": classified(shape=(28, 28, 1)), "wide": classified(shape=(12, 30)),
    "tall": classified(shape=(30, 12)), "fewer than a page": classified(wrong=3),
    "one": classified(wrong=1), "none": classified(wrong=0),
    "a single image": classified(n=1, wrong=1),
}  # fmt: skip


def test_the_worst_mistake_comes_first(path, monkeypatch):
    images, labels, _ = classified(n=4)
    labels[:] = [4, 4, 5, 6]
    probabilities = np.full((4, 10), 0.0)
    probabilities[0, [4, 9]] = 0.2, 0.8
    probabilities[1, [4, 8]] = 0.004, 0.996
    probabilities[2, 5] = 1
    probabilities[3, [6, 0]] = 0.0, 1.0
    texts = titles(monkeypatch)
    plots.mistakes(images, labels, probabilities, path)
    captions = [t for t in texts if t.startswith("is ")]
    worst = ["is 6, said 0 (100%)", "is 4, said 8 (>99%)", "is 4, said 9 (80%)"]
    assert captions == worst
    assert "All 3 mistakes in 4 images (75.00%), highest loss first" in texts
    texts.clear()
    plots.mistakes(images, labels, probabilities, path, count=2)
    assert sum(t.startswith("is ") for t in texts) == 2
    plots.mistakes(*classified(wrong=0), path)
    assert "No mistakes: all 60 images are right." in texts


NAMES = ["cat", "dog", "a$b", "n" * 40, *"efghij"]


@pytest.mark.parametrize("shape", [(28, 28), (30, 12)])
def test_classes_have_their_names_above_images_and_none_runs_into_another(shape):
    images, labels, chance = classified(wrong=60, shape=shape)
    clean, moved, *rest = attacked(40, shape=shape)
    words = set()
    for figure in (
        plots.mistakes(images, labels, chance, names=NAMES),
        plots.adversarial(clean, moved, *rest, 0.1, names=NAMES),
    ):
        said = [t for t in figure.findobj(Text) if t.get_text().startswith("is ")]
        words |= {t.get_text().split("\n")[0] for t in said}
        boxes = [t.get_window_extent() for t in said]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
        assert min(box.x0 for box in boxes) >= 0
    assert {"is cat", "is dog", r"is a\$b", f"is {'n' * 13}…"} <= words


def test_uint8_float_flat_and_image_draw_the_same(tmp_path):
    images, labels, probabilities = classified()
    variants = images, images / 255, images.reshape(-1, 784), images[..., None]
    drawn = []
    for i, variant in enumerate(variants):
        plots.mistakes(variant, labels, probabilities, tmp_path / f"{i}.png")
        drawn.append(opened(tmp_path / f"{i}.png"))
    assert all((drawn[0] == other).all() for other in drawn[1:])


# ---------------------------------------------------------------- adversarial


def attacked(fooled, n=40, classes=10, shape=(28, 28), right=True):
    """clean, attacked, labels, before, after: the first `fooled` are fooled."""
    images, labels, before = classified(n, classes, 0 if right else n, shape)
    clean = images / 255
    rng = np.random.default_rng(1)
    after = before.copy()
    after[:fooled] = np.roll(before[:fooled], 1, axis=1)
    moved = np.clip(clean + 0.1 * np.sign(rng.normal(size=clean.shape)), 0, 1)
    return clean, moved, labels, before, after


ADVERSARIAL = {
    "many": attacked(30), "fewer than a row": attacked(3), "one": attacked(1, n=1),
    "none": attacked(0), "none was right": attacked(0, right=False),
    "flat": attacked(30, shape=(784,)), "wide": attacked(30, shape=(12, 30)),
}  # fmt: skip


DRAWN = {  # what draws, of what
    **{f"curves, {name}": (plots.curves, (rows,)) for name, rows in CURVES.items()},
    **{f"confusion, {n}": (plots.confusion, guessed(n)) for n in (2, 20, 47)},
    **{f"mistakes, {name}": (plots.mistakes, case) for name, case in MISTAKES.items()},
    **{f"adversarial, {name}": (plots.adversarial, (*case, 0.1))
       for name, case in ADVERSARIAL.items()},
}  # fmt: skip


@pytest.mark.parametrize(("draws", "given"), DRAWN.values(), ids=DRAWN)
@pytest.mark.filterwarnings("error")
def test_it_is_drawn(draws, given, path):
    draws(*given, path)
    opened(path)


def test_the_title_says_what_the_budget_is_and_who_survived(path, monkeypatch):
    texts = titles(monkeypatch)
    for fooled, options, said in (
        (0, {}, "images that were right: these survived"),
        (30, {"norm": "l2", "budget": False}, "(l2, at most 2.35) fools 30 of the 40"),
    ):
        plots.adversarial(*attacked(fooled), 2.34567, path, **options)
        assert any(said in text for text in texts)
    clean, moved, labels, before, after = attacked(30)
    before[0] = after[0]  # wrong from the start, so not fooled
    texts = titles(monkeypatch)
    plots.adversarial(clean, moved, labels, before, after, 0.1, path, attack="FGSM")
    assert "FGSM (linf, epsilon 0.1) fools 29 of the 39 images that were right" in texts
    assert {"+0.1", "-0.1", "±epsilon"} <= set(texts)


def test_one_example_of_each_class_before_a_second():
    labels = np.array([7, 7, 7, 1, 1, 0])
    rows = of_images.round_of_classes(labels, np.arange(6))
    np.testing.assert_array_equal(rows, [5, 3, 0, 4, 1, 2])


def test_no_change_is_white_and_a_rise_is_red(path):
    clean, _, *rest = attacked(30)
    clean = clean * 0.5
    plots.adversarial(clean, clean, *rest, 0.1, path)
    without = near(opened(path), panels.RED)
    plots.adversarial(clean, clean + 0.1, *rest, 0.1, path)
    assert near(opened(path), panels.RED) > without + 8 * 130**2


# ---------------------------------------------------------------- shared


BAD = [
    # what draws, of what, and what is said
    (robustness.curve, ([0.0, 0.1], {"PGD": [1.0]}, 5), "PGD has 1 values for 2 bud"),
    (plots.confusion, (np.arange(3), np.arange(4), 10), "labels 3, predictions 4"),
    (plots.confusion, (np.array([10]), np.array([1]), 10),
     "labels run from 10 to 10, expected 0 to 9"),
    (plots.mistakes, [a[:0] for a in classified()], "at least 1"),
    (plots.mistakes, classified(shape=(30,)), "reshape"),
    (plots.mistakes, (classified()[0] / 25.0, *classified()[1:]), "undo the standard"),
    (plots.adversarial,
     (attacked(9)[0], attacked(9, shape=(12, 30))[1], *attacked(9)[2:], 0.1),
     "expected the same"),
]  # fmt: skip


def test_what_does_not_fit_is_said_and_nothing_is_written(path):
    for draws, given, message in BAD:
        with pytest.raises(JaxnnError, match=message):
            draws(*given, path)
    assert not path.exists()


def test_threads_draw_what_one_would(tmp_path):
    rows = history(5, 3)
    plots.curves(rows, tmp_path / "alone.png")
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    threads = [threading.Thread(target=plots.curves, args=(rows, p)) for p in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for path in paths:
        assert path.read_bytes() == (tmp_path / "alone.png").read_bytes()


def test_names_are_drawn_as_they_are_written(tmp_path):
    """No mathematics between dollars, and a single class has no mistakes."""
    for names in ([r"$\frac$", "\x1b\udcff"], ["only"]):
        y = np.zeros(3, int)
        plots.confusion(y, y, names, tmp_path / "a.png")
        transfer(np.zeros((len(names),) * 2), names, tmp_path / "b.png")
        assert (tmp_path / "a.png").stat().st_size > 1000


ROWS = [{"epoch": e, "loss": 1 / e, "grad_norm": 1.0, "skipped": 0} for e in (1, 2, 3)]


@pytest.mark.parametrize(("end", "head"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_picture_is_what_its_name_says(end, head, tmp_path):
    plots.curves(ROWS, tmp_path / f"a.{end}")
    assert (tmp_path / f"a.{end}").read_bytes().startswith(head)


def test_a_history_draws_itself_and_a_picture_of_no_kind_is_refused(tmp_path):
    history = fit(mlp([4, 2]), np.eye(4, dtype=np.float32), [0, 1, 0, 1], batch=2)
    assert history.plot().axes
    with pytest.raises(JaxnnError, match=r"expected .png, .svg or .pdf"):
        plots.curves(ROWS, tmp_path / "a.bmp")
    assert not list(tmp_path.iterdir())


SETTINGS = [{"values": {"lr": 0.1}, "validation_accuracy": 0.9}]
SEARCH = RateSearch(
    np.array([0.1, 1.0]), np.array([[0.5, 0.6], [0.4, 0.9]]), 2.3, 0.1, 0.1, 1.0, None,
    "because",
)  # fmt: skip
TAYLOR = {"slope": 2.0, "wrong_slope": 1.0, "steps": [0.1, 1.0],
          "remainders": [0.01, 1.0], "wrong": [0.1, 1.0]}  # fmt: skip
EVERY = {  # function of these modules that draws -> of what
    plots.curves: (ROWS,),
    plots.confusion: guessed(2),
    plots.mistakes: classified(9, wrong=3),
    plots.adversarial: (*attacked(3), 0.1),
    of_runs.rates: (SEARCH,),
    sweep: (SETTINGS, ["lr"]),
    robustness.curve: ([0.0, 0.1], {"PGD": [1.0, 0.5]}, 5),
    transfer: (np.eye(2), ["a", "b"]),
    gradients.errors_by_layer: (
        [{"layer": "a", "errors": {"manual": 0.0}, "kinks": 0}], {"manual": 1e-9},
    ),
    gradients.scatter: ({"a": (np.ones(3), np.ones(3), True)},),
    gradients.step_errors: ([0.1, 1.0], {"central": [1e-3, 1e-2]}),
    gradients.taylor: (TAYLOR,),
    graph.draw: (graph.tanh(graph.parameter(0.5)),),
    SEARCH.plot: (),
}  # fmt: skip


def test_every_function_that_draws_is_tried():
    found = {
        function
        for module in (of_runs, of_images, robustness, gradients, picture)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
        and "path" in inspect.signature(function).parameters
    }  # fmt: skip
    assert found == EVERY.keys() - {SEARCH.plot}


@pytest.mark.parametrize("draws", EVERY, ids=lambda f: f.__qualname__)
def test_the_figure_without_a_path_and_40_dots_an_inch_on_request(draws, tmp_path):
    figure = draws(*EVERY[draws])
    assert figure.dpi == panels.DPI
    assert figure._repr_png_()[:4] == b"\x89PNG"
    draws(*EVERY[draws], path=tmp_path / "a.png", dpi=40)
    with Image.open(tmp_path / "a.png") as image:
        inches = figure.get_size_inches()
        assert np.all(abs(np.array(image.size) - 40 * inches) <= 1)
        assert round(image.info["dpi"][0]) == 40


BARE = """
import sys
sys.modules["matplotlib_inline"] = None  # as if it were not installed
import numpy as np
from jaxnn import graph
from jaxnn.train.run import History

x = graph.feed("x")
assert (x * 2)._repr_svg_().startswith("<svg")
graph.draw(x * 2, {x: np.ones(2)}, "a.png")
row = {"epoch": 1, "loss": 1.0, "grad_norm": 1.0, "skipped": 0}
History((), (), None, 1, [row]).plot("b.svg")
"""


def test_a_notebooks_backend_is_inherited_without_its_package(tmp_path):
    backend = "module://matplotlib_inline.backend_inline"
    done = subprocess.run(
        [sys.executable, "-c", BARE], capture_output=True, text=True,
        cwd=tmp_path, env=os.environ | {"MPLBACKEND": backend},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.svg"]
