"""Keep the pages equal to the committed results.

    python -m experiments.report           rewrite the numbers in every README.md
    python -m experiments.report --check   exit 1 if any of them differs

A page marks what comes from a result, in one of two forms:

    <!-- table NAME --> ... <!-- /table -->
    <!-- value NAME:path/to/number FORMAT -->98.5<!-- /value -->

A table is what `experiments.NAME.table(result)` makes of `results/NAME.json`; for
`NAME:A,B` of the results A and B. A value is one number of that file in a Python format
such as `.1f` or `.1%`. A space in a key is written as "_" in its path.
"""

import difflib
import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.common import RESULTS
from jaxnn.app.flags import parsed
from jaxnn.errors import JaxnnError
from jaxnn.files import read_json, write_text

ROOT = Path(__file__).resolve().parent.parent
PAGES = tuple(
    ROOT / folder / "README.md" for folder in (".", "experiments", "jaxnn/distributed")
)
MARK = re.compile(
    r"(<!-- (table|value) (\S+?)(?: (\S+))? -->)(.*?)(<!-- /(?:table|value) -->)", re.S
)


@dataclass(frozen=True)
class Args:
    """Settings."""

    check: bool = False  # Write nothing; exit 1 and show the difference if any


def render(text: str, results: Path = RESULTS) -> str:
    """`text` with every marked table and value written anew from the results.

    Raises:
      JaxnnError: a mark names a result, a path or a format that does not exist, or no
        mark is found at all.
    """
    if not MARK.search(text):
        raise JaxnnError("no marked table or value in the text: nothing to check")
    if text.count("<!-- table ") + text.count("<!-- value ") != len(MARK.findall(text)):
        raise JaxnnError("a marked table or value is not closed or is malformed")

    def fill(match):
        head, kind, what, form, _, tail = match.groups()
        name, _, path = what.partition(":")
        if kind == "table":
            found = [
                read_json(results / f"{n}.json") for n in (path or name).split(",")
            ]
            rows = importlib.import_module(f"experiments.{name}").table(*found)
            return f"{head}\n{markdown(rows)}\n{tail}"
        result = read_json(results / f"{name}.json")
        return head + format(_dig(result, path, name), form or "") + tail

    return MARK.sub(fill, text)


def markdown(rows: list[list[str]]) -> str:
    """Rows, the first one the header, as a Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _dig(result: Any, path: str, name: str) -> Any:
    for key in path.split("/"):
        if isinstance(result, dict) and key not in result:
            key = key.replace("_", " ")
        try:
            result = result[int(key)] if isinstance(result, list) else result[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise JaxnnError(
                f"results/{name}.json has no {path!r} (at {key!r})"
            ) from None
    return result


def run(args: Args) -> int:
    """Check or rewrite the pages; returns the exit status."""
    differ = False
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fresh = render(text)
        if not args.check:
            write_text(page, fresh)
        elif fresh != text:
            differ = True
            name = str(page.relative_to(ROOT))
            lines = text.splitlines(), fresh.splitlines()
            print(*difflib.unified_diff(*lines, name, "results", lineterm=""), sep="\n")
    if args.check:
        print(
            "a README.md differs from experiments/results; run "
            "python -m experiments.report"
            if differ
            else "every README.md agrees with experiments/results"
        )
    return int(differ)


if __name__ == "__main__":
    try:
        words = sys.argv[1:]
        sys.exit(
            run(parsed("python -m experiments.report", Args, words, __doc__ or ""))
        )
    except JaxnnError as error:
        sys.exit(f"error: {error}")
