"""CSV files as typed columns."""

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxnn.data.sources import expanded
from jaxnn.errors import JaxnnError, lookup
from jaxnn.files import read_text

MISSING = ("", "?", "NA", "NaN", "nan")
"""What stands for "not known" in a CSV file."""


@dataclass(frozen=True)
class Table:
    """Columns of equal length, by name.

    Attributes:
      name: what errors call it.
      columns: name -> (N,) float64 with NaN for missing, or str with "" for missing.
    """

    name: str
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, column: str) -> np.ndarray:
        return lookup(f"column of {self.name}", column, self.columns)

    def take(self, rows) -> "Table":
        """The table of these rows only: indices, a slice or a mask."""
        return Table(self.name, {k: v[rows] for k, v in self.columns.items()})

    def missing(self) -> dict[str, int]:
        """How many values are missing, for each column that lacks any."""
        gaps = {k: v == "" if v.dtype.kind == "U" else np.isnan(v)
                for k, v in self.columns.items()}  # fmt: skip
        return {k: int(gap.sum()) for k, gap in gaps.items() if gap.any()}


def find_table(name: str) -> Path:
    """Where the table `name` lies: `$JAXNN_DATA`, `data/` beside the package or in it.

    Raises:
      JaxnnError: it is in none of them.
    """
    package = Path(__file__).resolve().parents[1]
    folders = [package.parent / "data", package / "tutorials" / "data"]
    if base := os.environ.get("JAXNN_DATA"):
        folders.insert(0, expanded(base))
    for folder in folders:
        if os.path.isfile(folder / name):
            return folder / name
    raise JaxnnError(
        f"{name}: not in {' nor in '.join(map(str, folders))}. Give its path, or put "
        "it into a folder and set JAXNN_DATA to that folder."
    )


def read_csv(
    path: str | Path, *, text: Sequence[str] = (), missing: Sequence[str] = MISSING
) -> Table:
    """Read a CSV file with a header line.

    A column whose values are all finite numbers becomes float64 with NaN where a value
    is missing; any other becomes text with "". Spaces around values are dropped, blank
    lines skipped.

    Args:
      path: the file, UTF-8, commas, quotes as in RFC 4180.
      text: columns to keep as text although they look like numbers (codes).
      missing: the words that stand for a missing value.

    Raises:
      JaxnnError: no such file, not UTF-8, no rows, a name twice or empty, a row of
        another length (with its line number).
    """
    path = Path(path)
    header, rows = _read_rows(path)
    unknown = [name for name in text if name not in header]
    if unknown:
        lookup(f"column of {path.name}", unknown[0], dict.fromkeys(header))
    columns = {}
    for name, values in zip(header, zip(*rows, strict=True), strict=True):
        cleaned = ["" if v.strip() in missing else v.strip() for v in values]
        numbers = None if name in text else _as_numbers(cleaned)
        columns[name] = np.array(cleaned) if numbers is None else numbers
    return Table(path.name, columns)


def _read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    # spreadsheets write a byte-order mark, which is not part of a name
    text = read_text(path, "a CSV file").removeprefix("\ufeff")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise JaxnnError(f"{path}: not a CSV file ({error})") from error
    if len(lines) < 2:
        raise JaxnnError(f"{path}: got {len(lines)} lines, expected a header and rows")
    header = [name.strip() for name in lines[0][1]]
    for name in header:
        if not name or header.count(name) > 1:
            raise JaxnnError(
                f"{path}: column name {name!r} is empty or there twice in {header}"
            )
    for number, row in lines[1:]:
        if len(row) != len(header):
            raise JaxnnError(
                f"{path}, line {number}: got {len(row)} values, expected {len(header)} "
                "as in the header"
            )
    return header, [row for _, row in lines[1:]]


def _as_numbers(values: list[str]) -> np.ndarray | None:
    """The values as floats, NaN for missing; None if one is not a finite number."""
    if not any(values):
        return None
    try:
        numbers = [float(v) if v else math.nan for v in values]
    except ValueError:
        return None
    finite = all(math.isfinite(n) for n, v in zip(numbers, values, strict=True) if v)
    return np.array(numbers) if finite else None
