"""Cases of einsum, with references that multiply and sum without it."""

import jax.numpy as jnp

from jaxnn import rules
from tests.rules.common import Case, normal


def multiplied(subscripts):
    """Both operands over all letters at once, multiplied, summed: slow and plain."""
    terms, out = subscripts.split("->")
    term_a, term_b = terms.split(",")
    letters = sorted(set(term_a + term_b))

    def wide(x, term, sizes):
        # an axis for every letter
        x = x.transpose([term.index(c) for c in letters if c in term])
        x = x.reshape([sizes[c] if c in term else 1 for c in letters])
        return jnp.broadcast_to(x, [sizes[c] for c in letters])

    def reference(a, b):
        sizes = dict(zip(term_a + term_b, a.shape + b.shape, strict=True))
        product = wide(a, term_a, sizes) * wide(b, term_b, sizes)
        y = product.sum([i for i, c in enumerate(letters) if c not in out])
        left = [c for c in letters if c in out]
        return y.transpose([left.index(c) for c in out])

    return reference


# subscripts, and the shapes of a and b
PLAIN = [
    ("ij,jk->ik", (3, 4), (4, 2)), ("ij,jk->ki", (3, 4), (4, 2)),
    ("bhtd,bhsd->bhts", (2, 1, 3, 4), (2, 1, 5, 4)),
    ("i,j->ij", (3,), (4,)), ("i,i->", (5,), (5,)), ("ij,ij->ji", (3, 4), (3, 4)),
    ("ij,k->k", (3, 4), (2,)), ("ij,jkl->i", (3, 4), (4, 2, 3)), (",->", (), ()),
    (",ij->ji", (), (2, 3)), ("ij,jk->ik", (1, 1), (1, 1)),
    ("ij,jk->ik", (0, 4), (4, 2)), ("ij,jk->ik", (3, 0), (0, 2)),
    ("ij,k->k", (0, 3), (2,)),
]  # fmt: skip
# with what is left out written out
SHORT = [
    ("ij,jk", "ij,jk->ik", (3, 4), (4, 2)), ("ba,b", "ba,b->a", (3, 4), (3,)),
    ("ij,ij", "ij,ij->", (3, 4), (3, 4)),
    (" i j , j k -> i k ", "ij,jk->ik", (3, 4), (4, 2)),
    ("...i,io->...o", "xyi,io->xyo", (2, 3, 4), (4, 5)),
    ("...i,io->...o", "i,io->o", (4,), (4, 5)),
    ("...ij,...jk->...ik", "xyij,yjk->xyik", (3, 2, 3, 4), (2, 4, 5)),
    ("...i,...i", "xi,xi->x", (2, 3), (2, 3)),
    ("i...,...->i", "ixy,xy->i", (2, 3, 4), (3, 4)),
]  # fmt: skip


def stretched(a, b):
    # (2, 1, 3, 4), (5, 4, 2) -> (2, 5, 3, 2)
    return jnp.tile(a, (1, 5, 1, 1)) @ jnp.tile(b[None], (2, 1, 1, 1))


CASES = {
    "einsum": [
        Case(
            f"{subscripts} of {s} and {t}",
            rules.einsum(subscripts),
            (normal(*s), normal(*t, seed=1)),
            multiplied(full),
        )
        for subscripts, full, s, t in [(p[0], *p) for p in PLAIN] + SHORT
    ]
    + [
        Case(
            "stretched by ...",
            rules.einsum("...ij,...jk->...ik"),
            (normal(2, 1, 3, 4), normal(5, 4, 2)),
            stretched,
        ),
    ]
}
