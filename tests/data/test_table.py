"""CSV files: typed columns, gaps known, errors that name the line."""

import csv

import numpy as np
import pytest

from jaxnn.data.table import find_table, read_csv
from jaxnn.errors import JaxnnError

CARS = "automobile.csv"


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_columns_are_typed_and_gaps_known(write):
    table = read_csv(write("a, b,c,d\n1,x,?,\n2.5,,3e2,NA\n-7,x,4,\n"))
    assert table["a"].tolist() == [1, 2.5, -7]
    assert table["b"].tolist() == ["x", "", "x"]
    np.testing.assert_array_equal(table["c"], [np.nan, 300, 4])
    assert table["d"].tolist() == ["", "", ""]  # no value: no type to guess
    assert table.missing() == {"b": 1, "c": 1, "d": 3}
    assert len(table) == 3


def test_one_word_makes_a_column_text_and_text_can_be_asked_for(write):
    path = write("a,code\n1,007\nfew,008\n")
    assert read_csv(path)["a"].tolist() == ["1", "few"]
    assert read_csv(path)["code"].tolist() == [7, 8]
    assert read_csv(path, text=["code"])["code"].tolist() == ["007", "008"]


@pytest.mark.parametrize("word", ["inf", "-inf", "1e999"])
def test_an_infinite_number_is_not_a_number(write, word):
    assert read_csv(write(f"a\n1\n{word}\n"))["a"].dtype.kind == "U"


READ = [
    # byte-order mark, CRLF, blank line; quotes, no newline at the end
    (b"\xef\xbb\xbfa,b\r\n1,x\r\n\r\n2,y\r\n", [1, 2], ["x", "y"]),
    (b'"a","b"\n"1","x"\n2,y', [1, 2], ["x", "y"]),
    ('a,b\n"1,5","x\ny"\n', ["1,5"], ["x\ny"]),  # within quotes
    ("a,b\n1,x\n1,\n", [1, 1], ["x", ""]),
]


@pytest.mark.parametrize(("text", "a", "b"), READ)
def test_what_spreadsheets_write_is_read(write, text, a, b):
    table = read_csv(write(text))
    assert (table["a"].tolist(), table["b"].tolist()) == (a, b)


def test_a_row_of_gaps_is_a_row(write):
    assert len(read_csv(write("a,b\n1,2\n,\n"))) == 2


def test_a_broken_file_says_what_and_where(write):
    for text, message in (
        ("", "0 lines"), ("a,b\n", "1 lines"), ("a,\n1,2\n", "'' is empty"),
        ("a,b\n1,2\n3\n", "line 3: got 1 values, expected 2"),
        ("a,b\n1,2,3\n", "line 2: got 3 values, expected 2"),
        ("a,a\n1,2\n", "'a' is empty or there twice"),
        (b"a\n\xff\xfe\n", "UTF-8"), ('a\n"1\n', "not a CSV"),
    ):  # fmt: skip
        with pytest.raises(JaxnnError, match=message):
            read_csv(write(text))


def test_an_unknown_column_names_its_neighbor(write):
    path = write("price,make\n1,x\n")
    with pytest.raises(JaxnnError, match="Did you mean 'price'"):
        read_csv(path)["prise"]
    with pytest.raises(JaxnnError, match=r"mine\.csv 'mark'"):
        read_csv(path, text=["mark"])


@pytest.mark.parametrize(
    ("name", "rows"), [("automobile.csv", 205), ("titanic.csv", 1309)]
)
def test_the_committed_tables_agree_with_another_reader(name, rows):
    table = read_csv(find_table(name))
    with find_table(name).open(newline="") as file:
        expected = list(csv.DictReader(file))
    assert len(table) == len(expected) == rows
    for column, values in table.columns.items():
        for mine, theirs in zip(values.tolist(), expected, strict=True):
            word = theirs[column]
            if isinstance(mine, str):
                assert mine == word
            else:
                assert mine == float(word) if word else np.isnan(mine)


def test_a_table_is_found_in_the_users_folder_first(write, tmp_path, monkeypatch):
    write("a\n1\n", CARS)
    monkeypatch.setenv("JAXNN_DATA", str(tmp_path))
    assert find_table(CARS).parent == tmp_path
    with pytest.raises(JaxnnError, match="JAXNN_DATA"):
        find_table("nothing.csv")
