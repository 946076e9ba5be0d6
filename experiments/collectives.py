"""What the devices say to one another: the collectives of a compiled program."""

import math
import re
from typing import Any, NamedTuple

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast", "ragged-all-to-all",
)  # fmt: skip
_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128}
_CALL = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]+\d+)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One collective operation in a program."""

    kind: str  # "all-reduce", "all-gather" ...
    shapes: tuple[tuple[str, tuple[int, ...]], ...]  # (type, shape) of what it carries

    @property
    def sizes(self) -> list[int]:
        """Bytes of each array."""
        return [math.prod(shape) * _bits(kind) // 8 for kind, shape in self.shapes]


def collectives(compiled: Any) -> list[Collective]:
    """The collectives in the HLO of a compiled program, each once.

    What is in a loop is counted once too: compile one step to know a step's.
    """
    text = compiled if isinstance(compiled, str) else compiled.as_text()
    found = []
    for line in text.splitlines():
        if match := _CALL.search(line):
            arrays = _ARRAY.findall(match[1])
            if match[3] and match[2] != "all-reduce":
                arrays = arrays[len(arrays) // 2 :]  # given and made are both named
            shapes = tuple(
                (kind, tuple(int(n) for n in shape.split(",") if n))
                for kind, shape in arrays
            )
            found.append(Collective(match[2], shapes))
    return found


def _bits(kind: str) -> int:
    return _BITS[kind] if kind in _BITS else int(re.sub(r"\D", "", kind))
