"""What is shown: text and Markdown, tables, names that stay names, a bar.

Names come from folders, files and users: one with `<`, `|`, a backtick or a line break
must neither become HTML, a link or a picture nor break a table.
"""

import math
import re
import statistics
import warnings
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

ROWS = 60  # of a table in a notebook


def escaped(text: str) -> str:
    r"""`text` in one line that a reader of Markdown shows as it is.

    >>> print(escaped("<b> | ![x](y)"))
    &lt;b> \| ![x\](y)
    """
    line = printable(" ".join(text.split()))
    line = re.sub(r"[\\`*|]|\](?=[(\[:])", r"\\\g<0>", line)
    return line.replace("&", "&amp;").replace("<", "&lt;")


def code(text: str) -> str:
    """`text` as code within a line, also in a table."""
    line = printable(" ".join(text.split()))
    return "`" + line.replace("`", "'").replace("|", "\\|") + "`"


def fenced(text: str, language: str = "text") -> list[str]:
    """The lines of a block of code that holds `text`, which cannot end it."""
    lines = [printable(line) for line in text.rstrip().splitlines()]
    runs = [run for line in lines for run in re.findall("`+", line)]
    fence = "`" * max(3, 1 + max(map(len, runs), default=0))
    return [f"{fence}{language}", *lines, fence]


def aligned(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Rows as plain text in columns of equal width, those of `right` flush right.

    >>> print(aligned([("layer", "parameters"), ("dense(10)", "7,850")], right=[1]))
    layer      parameters
    dense(10)       7,850
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right, lines = set(right), []
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; the cells are Markdown already."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


class Table(str):
    """Rows as `aligned`, which a prompt shows as they are and a notebook as a table.

    Attributes:
      rows: the cells, the first row the head.
      note: what stands below them, "" for nothing.
    """

    rows: Sequence[Sequence[str]] = ()
    note = ""

    @classmethod
    def of(
        cls, rows: Sequence[Sequence[str]], right: Iterable[int] = (), note: str = ""
    ) -> "Table":
        """The table of these rows; columns in `right` are flush right."""
        table = cls("\n".join(filter(None, [aligned(rows, right), note])))
        table.rows, table.note = rows, note
        return table

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        head, *rows = self.rows
        return html(head, rows, self.note)


def html(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """The same table for a notebook; head, cells and caption are plain text.

    Of many rows the first and the last are shown. Blanks that indent stay.
    """
    rows, half = list(rows), ROWS // 2
    if len(rows) > ROWS:
        rows[half:-half] = [["..."] * len(head)]
    lines = [
        f"<tr>{''.join(f'<{tag}>{_in_html(c)}</{tag}>' for c in cells)}</tr>"
        for tag, cells in [("th", head), *(("td", row) for row in rows)]
    ]
    below = f"<p>{_in_html(caption)}</p>" if caption else ""
    return f"<table>{''.join(lines)}</table>{below}"


def _in_html(text: str) -> str:
    return escape(printable(text)).replace("  ", "&emsp;")


def spread(value: Any) -> str:
    """Shares, one a seed: "98.12% +- 0.08 (5 seeds)", in percentage points."""
    found = getattr(value, "tolist", lambda: value)()
    shares = found if isinstance(found, list) else [found]
    mean = sum(shares) / len(shares)
    words = f"{mean:.2%}" if math.isfinite(mean) else "not finite"
    if len(shares) == 1:
        return words
    return f"{words} +- {100 * statistics.stdev(shares):.2f} ({len(shares)} seeds)"


def document(sections: Iterable[str | Sequence[str]]) -> str:
    """A page of Markdown from its sections, each a text or its lines; none if empty."""
    texts = (s if isinstance(s, str) else "\n".join(s) for s in sections)
    return "\n\n".join(text for text in texts if text) + "\n"


def printable(text: str) -> str:
    """`text` with control characters, and bytes that are no text, written in ASCII."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def bar(**options: Any) -> Any:
    """`tqdm` with these options: in a notebook its own bar, where ipywidgets is.

    It is imported here, as much of what does not show one is done without it.
    """
    with warnings.catch_warnings():  # where ipywidgets is not, text does
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    return tqdm(**options)
