"""Pictures of digits come out as MNIST would show them, whatever they went through."""

import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxnn.data import digit_image, read_digit, read_idx, stratified_sample
from jaxnn.errors import JaxnnError

MNIST = Path(digit_image.__file__).parents[2] / "data" / "mnist"


@pytest.fixture(scope="module")
def digits():
    labels = read_idx(MNIST / "t10k-labels-idx1-ubyte.gz")
    rows = stratified_sample(labels, 40, 0)
    return read_idx(MNIST / "t10k-images-idx3-ubyte.gz")[rows]


def _scene(digit, times=5, size=(200, 300), at=(20, 90), how=Image.Resampling.BICUBIC):
    """The digit, enlarged, somewhere on a black canvas."""
    side = 28 * times
    scene = np.zeros(size, np.uint8)
    large = Image.fromarray(digit).resize((side, side), how)
    scene[at[0] : at[0] + side, at[1] : at[1] + side] = np.asarray(large)
    return scene


def _rgba(scene, gray):
    return np.dstack([np.full((*scene.shape, 3), gray, np.uint8), scene])


def _sixteen(scene):
    return Image.fromarray(scene.astype(np.uint16) * 257)


def _color(scene):
    return Image.merge("RGB", [Image.fromarray(255 - scene // n) for n in (1, 2, 3)])


FORMS = {
    "enlarged": ("png", lambda s, _: s),
    "dark on white": ("png", lambda s, _: 255 - s),
    "jpeg": ("jpg", lambda s, _: 255 - s),
    "blue ink, jpeg": ("jpg", lambda s, _: _color(s)),
    "palette": ("gif", lambda s, _: Image.fromarray(255 - s).convert("P")),
    "16 bit": ("png", lambda s, _: _sixteen(s)),
    "16 bit tiff": ("tiff", lambda s, _: _sixteen(s)),
    "float tiff": ("tiff", lambda s, _: Image.fromarray(s.astype(np.float32) / 255)),
    "black on transparent": ("png", lambda s, _: _rgba(s, 0)),
    "white on transparent": ("png", lambda s, _: _rgba(s, 255)),
    "opaque alpha": ("png", lambda s, _: Image.fromarray(255 - s).convert("RGBA")),
    "1 bit": ("png", lambda s, _: Image.fromarray((255 - s) // 128 * 255).convert("1")),
    "noisy paper": (
        "png",
        lambda s, rng: (220 - 0.7 * s + rng.normal(0, 10, s.shape)).clip(0, 255)),
    "uneven light": (
        "png", lambda s, _: np.linspace(250, 170, s.shape[1]) * (1 - 0.9 * s / 255)),
    "low contrast": ("png", lambda s, _: 200 - 0.2 * s),
    "specks of dust": (
        "png", lambda s, rng: np.maximum(s, 255 * (rng.random(s.shape) < 3e-4))),
}  # fmt: skip


def _save(path, picture):
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture.astype(np.uint8))
    picture.save(path)
    return path


def _likeness(one, two):
    return np.corrcoef(one.ravel(), two.ravel())[0, 1]


@pytest.mark.parametrize("form", FORMS)
def test_a_digit_survives_its_form(tmp_path, digits, form):
    suffix, make = FORMS[form]
    rng = np.random.default_rng(0)
    alike = []
    for digit in digits:
        path = _save(tmp_path / f"a.{suffix}", make(_scene(digit), rng))
        got = read_digit(path)
        assert got.shape == (28, 28)
        assert got.dtype == np.uint8
        assert got.max() == 255
        alike.append(_likeness(got, digit))
    assert np.mean(alike) > 0.93, "one pixel of shift costs about 0.25"
    assert np.min(alike) > 0.6


@pytest.mark.parametrize(
    ("times", "size", "at"),
    [(1, (28, 61), (0, 30)), (3, (84, 84), (0, 0)), (7, (196, 900), (0, 700))],
)
def test_size_and_place_do_not_matter(tmp_path, digits, times, size, at):
    scenes = (_scene(d, times, size, at, Image.Resampling.NEAREST) for d in digits)
    got = [read_digit(_save(tmp_path / "a.png", scene)) for scene in scenes]
    assert np.mean([_likeness(g, d) for g, d in zip(got, digits, strict=True)]) > 0.97


@pytest.mark.parametrize("flip", [False, True])
def test_a_digit_of_mnist_stays_as_it_is_or_is_inverted(tmp_path, digits, flip):
    for digit in digits:
        got = read_digit(_save(tmp_path / "a.png", 255 - digit if flip else digit))
        exact = digit * (255 / digit.max() if flip else 1)
        np.testing.assert_allclose(got, exact, atol=0.5)


def test_a_shifted_digit_comes_back_to_the_center(tmp_path, digits):
    shifted = np.roll(digits[0], (-3, 2), (0, 1))
    got = read_digit(_save(tmp_path / "a.png", shifted))
    assert _likeness(got, digits[0]) > 0.999


def test_a_phone_picture_is_turned_as_it_says(tmp_path, digits):
    scene = Image.fromarray(255 - _scene(digits[0]))
    upright = read_digit(_save(tmp_path / "a.png", scene))
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to the right"
    scene.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png", exif=exif)
    np.testing.assert_array_equal(read_digit(tmp_path / "b.png"), upright)


def test_a_stroke_of_one_pixel_is_ink(tmp_path):
    scene = np.full((50, 40), 255, np.uint8)
    scene[5:45, 20] = 0
    got = read_digit(_save(tmp_path / "one.png", scene))
    rows, columns = np.nonzero(got)
    assert np.ptp(rows) + 1 == 20
    assert set(columns) == {14}


def _png_header(width, height):
    def chunk(kind, data):
        crc = zlib.crc32(kind + data).to_bytes(4)
        return len(data).to_bytes(4) + kind + data + crc

    size = width.to_bytes(4) + height.to_bytes(4)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size + bytes([8, 0, 0, 0, 0]))
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


BAD = {
    "empty": (b"", "got an empty file (0 bytes), expected a picture"),
    "text": (b"not a picture", "got a file that is no image, expected a picture"),
    "huge": (_png_header(30_000, 30_000), "too large a picture ("),
    "large": (_png_header(9_000, 9_000), "(9000x9000), expected at most 64000000 pix"),
    "no pixels": (_png_header(400, 400), "got a damaged file ("),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named(tmp_path, name):
    content, text = BAD[name]
    (tmp_path / "digit.png").write_bytes(content)
    with pytest.raises(JaxnnError) as caught:
        read_digit(tmp_path / "digit.png")
    assert str(caught.value).startswith(f"{tmp_path / 'digit.png'}: got ")
    assert text in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_cut_picture_is_named(tmp_path, digits, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200))
    path = _save(tmp_path / f"a.{suffix}", noise)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(JaxnnError, match=rf"a\.{suffix}: got a damaged file \("):
        read_digit(path)


BLANK = {
    "black": np.zeros((28, 28)), "white": np.full((90, 60), 255),
    "one pixel": np.full((1, 1), 7),
    "faint stripes": np.full((50, 50), 128) + np.arange(50) % 3,
    "only noise": np.random.default_rng(0).normal(200, 8, (100, 100)),
    "transparent": np.zeros((40, 40, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", BLANK)
def test_a_picture_without_ink_is_refused(tmp_path, name):
    path = _save(tmp_path / "blank.png", BLANK[name])
    with pytest.raises(JaxnnError, match=r"blank\.png: got a blank picture .*expected"):
        read_digit(path)


def test_a_photograph_is_no_mark_and_that_is_said(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    path = _save(tmp_path / "photo.png", photo)
    with pytest.raises(JaxnnError, match=r"border is of many levels, .*plain ground"):
        read_digit(path)


@pytest.mark.parametrize("kind", ["gif", "tiff", "png", "webp"])
def test_a_film_is_not_one_picture(tmp_path, digits, kind):
    page = np.kron(digits[0], np.ones((4, 4))).astype(np.uint8)
    first, second = Image.fromarray(page), Image.fromarray(255 - page)
    first.save(tmp_path / f"film.{kind}", save_all=True, append_images=[second])
    with pytest.raises(JaxnnError, match="got a film or several pages, expected one"):
        read_digit(tmp_path / f"film.{kind}")


def test_cmyk_is_read_and_a_program_is_not_started(tmp_path, digits):
    gray = Image.fromarray(255 - np.kron(digits[0], np.ones((4, 4))).astype(np.uint8))
    gray.convert("CMYK").save(tmp_path / "a.jpg")
    assert _likeness(read_digit(tmp_path / "a.jpg"), digits[0]) > 0.95
    gray.convert("RGB").save(tmp_path / "a.eps")
    with pytest.raises(JaxnnError, match="got a file that is no image"):
        read_digit(tmp_path / "a.eps")


def test_a_small_file_of_many_pixels_takes_little_memory(tmp_path, digits):
    path = tmp_path / "large.png"
    large = 255 - np.kron(digits[0], np.ones((200, 200), np.uint8))
    Image.fromarray(large).save(path)  # 5600 x 5600 pixels in a few kB
    tracemalloc.start()
    digit = read_digit(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert _likeness(digit, digits[0]) > 0.95
    assert peak < 5 * large.size


def test_a_header_without_pixels_or_of_a_line_is_refused(tmp_path):
    for size in ((0, 0), (0, 5), (5, 0), (40, 1_000_000)):
        (tmp_path / "digit.png").write_bytes(_png_header(*size))
        with pytest.raises(JaxnnError, match=r"digit\.png: got "):
            read_digit(tmp_path / "digit.png")
        (tmp_path / "digit.ppm").write_bytes(b"P5 %d %d 255\n" % size)
        with pytest.raises(JaxnnError, match=r"digit\.ppm: got "):
            read_digit(tmp_path / "digit.ppm")
