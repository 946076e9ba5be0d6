"""IDX files: round trips, bounded memory, one clear error for each kind of damage."""

import gzip
import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxnn.data import idx, read_idx, stream_idx, write_idx
from jaxnn.data.idx import TYPES, content_sha256, read_idx_and_sha256
from jaxnn.errors import JaxnnError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
HEADER = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4])
GOOD = HEADER + IMAGES.tobytes()

arrays = st.sampled_from([d.newbyteorder("=") for d in TYPES.values()]).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)
    )
)


one_folder = settings(  # for all examples: each writes its file anew
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def peak(call):
    """Bytes of memory that a call takes at most, and what it gives."""
    tracemalloc.start()
    found = call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most, found


@given(array=arrays, packed=st.booleans())
@one_folder
def test_reading_gives_back_what_was_written(tmp_path, array, packed):
    path = tmp_path / ("a.gz" if packed else "a")
    write_idx(path, array)
    again = read_idx(path)
    assert again.dtype == array.dtype
    assert again.dtype.isnative
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()  # also NaN payloads and -0.0
    assert again.flags.writeable


@given(count=st.integers(0, 9), records=st.integers(1, 12), packed=st.booleans())
@one_folder
def test_the_streamed_pieces_make_up_the_whole(tmp_path, count, records, packed):
    path = tmp_path / ("s.gz" if packed else "s")
    array = np.arange(count * 6, dtype=np.int16).reshape(count, 2, 3)
    write_idx(path, array)
    pieces = list(stream_idx(path, records))
    assert [len(p) for p in pieces[:-1]] == [records] * (len(pieces) - 1)
    whole = np.concatenate([np.zeros((0, 2, 3), np.int16), *pieces])
    np.testing.assert_array_equal(whole, array)


def test_streaming_holds_one_piece_in_memory(tmp_path):
    path = tmp_path / "big.gz"
    write_idx(path, np.zeros((20_000, 1000), np.uint8))
    most, total = peak(lambda: sum(len(piece) for piece in stream_idx(path, 500)))
    assert total == 20_000
    assert most < 5_000_000, "20 MB of content, 0.5 MB a piece"


def test_the_content_decides_about_gzip_not_the_name(tmp_path):
    (tmp_path / "plain.gz").write_bytes(GOOD)
    (tmp_path / "packed").write_bytes(gzip.compress(GOOD))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain.gz"), IMAGES)
    np.testing.assert_array_equal(read_idx(tmp_path / "packed"), IMAGES)


def test_writing_twice_gives_the_same_bytes(tmp_path):
    write_idx(tmp_path / "one.gz", IMAGES)
    write_idx(tmp_path / "two.gz", IMAGES)
    one = (tmp_path / "one.gz").read_bytes()
    assert one == (tmp_path / "two.gz").read_bytes()
    assert gzip.decompress(one) == GOOD
    assert not list(tmp_path.glob(".*")), "no temporary file is left"


def test_big_endian_values_are_read_as_numbers(tmp_path):
    (tmp_path / "f").write_bytes(bytes([0, 0, 0x0C, 1, 0, 0, 0, 1, 0, 0, 1, 2]))
    assert read_idx(tmp_path / "f").tolist() == [258]


def test_the_hash_is_of_the_content(tmp_path):
    write_idx(tmp_path / "a.gz", IMAGES)
    (tmp_path / "b").write_bytes(GOOD)
    array, digest = read_idx_and_sha256(tmp_path / "a.gz")
    np.testing.assert_array_equal(array, IMAGES)
    assert digest == content_sha256(tmp_path / "a.gz") == content_sha256(tmp_path / "b")


def _damaged_crc() -> bytes:
    packed = bytearray(gzip.compress(GOOD))
    packed[-8] ^= 1
    return bytes(packed)


def _damaged_deflate() -> bytes:
    packed = bytearray(gzip.compress(np.random.default_rng(0).bytes(3000)))
    packed[10] |= 0b110  # a block type that does not exist
    return bytes(packed)


def _header(code: int, *dims: int) -> bytes:
    return bytes([0, 0, code, len(dims)]) + np.array(dims, ">u4").tobytes()


BAD = {
    "empty": (b"", "an empty file (0 bytes)", "an IDX file"),
    "empty gzip": (gzip.compress(b""), "an empty file", "an IDX file"),
    "web page": (b"<!DOCTYPE html>", "starts with 3c 21 44 4f", "starts with 00 00"),
    "two bytes": (b"\0\0", "starts with 00 00", "a type byte and a rank byte"),
    "gzip cut": (gzip.compress(GOOD)[:-12], "ends too early", "a whole gzip"),
    "gzip cut in its checksum": (gzip.compress(GOOD)[:-3], "ends too early", "whole"),
    "gzip with a bad checksum": (_damaged_crc(), "corrupt gzip (CRC", "intact gzip"),
    "gzip with bad blocks": (_damaged_deflate(), "corrupt gzip", "intact gzip"),
    "unknown type": (_header(0x0A, 1) + b"\0", "type byte 0x0a", "0x08 (uint8), 0x09"),
    "dimensions cut": (HEADER[:10], "6 bytes of dimensions", "12 (3 dimensions"),
    "too short": (GOOD[:-1], "23 bytes of values", "24 (the header announces shape"),
    "too long": (GOOD + b"!", "25 bytes of values", "24 (the header announces"),
    "gzip too short": (gzip.compress(GOOD[:-1]), "23 bytes of values", "24 (the header",
    ),
    "gzip too long": (gzip.compress(GOOD + b"!"), "more than 24 bytes", "24 (the head"),
    "absurd sides": (_header(0x0E, *[2**32 - 1] * 3) + b"12345678", "8 bytes of values",
        "announces shape (4294967295, 4294967295, 4294967295) of float64"),
    "absurd sides in a gzip": (
        gzip.compress(_header(0x0E, *[2**32 - 1] * 3) + b"12345678"),
        "8 bytes of values", "announces shape (4294967295"),
    "absurd but empty": (_header(8, 0, *[2**32 - 1] * 3), "shape (0, 4294967295",
        "sides that fit into memory"),
    "absurd rank": (_header(8, *[1] * 200) + b"\0", "rank 200", "at most 64"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_what_was_got_and_expected(tmp_path, name):
    content, got, expected = BAD[name]
    path = tmp_path / "images-idx3"
    path.write_bytes(content)
    for read in (read_idx, read_idx_and_sha256, lambda p: list(stream_idx(p, 1))):
        with pytest.raises(JaxnnError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: got "), message
        assert got in message
        assert expected in message.split(", expected ")[1]
        assert message.endswith("Fetch or copy the file again.")


@pytest.mark.parametrize("packed", [False, True])
def test_an_absurd_header_allocates_nothing(tmp_path, packed):
    content = _header(8, 2**31, 2**20) + b"x"
    path = tmp_path / "lie"
    path.write_bytes(gzip.compress(content) if packed else content)
    most, error = peak(lambda: _refusal(read_idx, path))
    assert "1 bytes of values" in error
    assert most < 3_000_000


def _refusal(read, path):
    with pytest.raises(JaxnnError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize("sides", [(2_000_000,), (24,), (2**20, 2**20)])
def test_a_gzip_made_to_fill_the_memory_is_given_up_early(tmp_path, monkeypatch, sides):
    monkeypatch.setattr(idx, "_MOST_UNPACKED", 100_000)
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(_header(8, *sides) + bytes(2_000_000)))
    for read in (read_idx, content_sha256, read_idx_and_sha256):
        most, error = peak(lambda read=read: _refusal(read, path))
        # what is announced to be short is found out at its end
        assert "more than 24 bytes" in error or "unpacks to more than" in error
        assert most < 3_500_000


def test_blank_images_are_no_bomb(tmp_path):
    write_idx(tmp_path / "blank.gz", np.zeros((3000, 28, 28), np.uint8))
    assert not read_idx(tmp_path / "blank.gz").any()


def test_pieces_before_the_damage_are_yielded(tmp_path):
    (tmp_path / "cut").write_bytes(gzip.compress(GOOD[:-1]))
    pieces = stream_idx(tmp_path / "cut", 1)
    np.testing.assert_array_equal(next(pieces), IMAGES[:1])
    with pytest.raises(JaxnnError, match=r"got 23 bytes of values, expected 24"):
        next(pieces)


def test_types_that_idx_lacks_cannot_be_written(tmp_path):
    with pytest.raises(JaxnnError) as caught:
        write_idx(tmp_path / "a", np.zeros(3, np.int64))
    assert "got an array of int64 (3,)" in str(caught.value)
    assert "expected one of uint8, int8, int16" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_earlier_file(tmp_path, monkeypatch):
    write_idx(tmp_path / "a.gz", IMAGES)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gzip.GzipFile, "write", full)
    with pytest.raises(JaxnnError, match=r"a\.gz: No space left.*untouched"):
        write_idx(tmp_path / "a.gz", IMAGES + 1)
    monkeypatch.undo()
    np.testing.assert_array_equal(read_idx(tmp_path / "a.gz"), IMAGES)
    assert [f.name for f in tmp_path.iterdir()] == ["a.gz"]


@pytest.mark.parametrize(("array", "records"), [(IMAGES, 0), (np.uint8(3), 1)])
def test_streaming_needs_a_first_dimension_and_a_count(tmp_path, array, records):
    write_idx(tmp_path / "a", array)
    with pytest.raises(JaxnnError, match=r"expected at least (1|one dimension)"):
        list(stream_idx(tmp_path / "a", records))


def test_gzip_members_in_a_row_are_one_content(tmp_path):
    both = io.BytesIO()
    both.write(gzip.compress(GOOD[:20]))
    both.write(gzip.compress(GOOD[20:]))
    (tmp_path / "two.gz").write_bytes(both.getvalue())
    np.testing.assert_array_equal(read_idx(tmp_path / "two.gz"), IMAGES)
