"""Cases of products: with weights, of any two arrays, with one-hot rows."""

import jax.numpy as jnp
import numpy as np

from jaxnn import rules
from tests.rules.common import Case, normal


def matmul(x, w):
    return jnp.einsum("...i,io->...o", x, w)


def affine(x, w, b):
    y = matmul(x, w)
    return y + jnp.broadcast_to(b, y.shape)


def product_cases(rule, reference, bias):
    table = {
        "batch": ((3, 4), 2),
        "all of size one": ((1, 1), 1),
        "no batch axis": ((4,), 3),
        "four axes": ((2, 1, 3, 5), 2),
        "no rows": ((0, 4), 3),
        "no features": ((2, 0), 3),
        "no units": ((2, 3), 0),
    }
    scales = dict.fromkeys(table, 1.0) | {"huge": 1e150, "tiny": 1e-150}
    cases = []
    for name, scale in scales.items():
        shape, width = table.get(name, ((3, 4), 2))
        args = (normal(*shape) * scale, normal(shape[-1], width, seed=1) * scale)
        if bias:
            args = (*args, normal(width, seed=2) * scale**2)
        cases.append(Case(name, rule, args, reference))
    return cases


# ---- einsum


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


# ---- tables of vectors


def embedding(padding=None):
    """A product with one-hot rows."""

    def reference(x, w):
        rows = jnp.arange(w.shape[0]).reshape((1,) * x.ndim + (-1,))
        hot = (x[..., None] == rows) * 1.0
        if padding is not None:
            hot = hot * (x != padding)[..., None]
        return jnp.einsum("...i,io->...o", hot, w)

    return reference


def embedding_cases():
    table = {
        "repeated": (np.array([[0, 2, 2], [1, 2, 0]]), (3, 4), None),
        "rows never read": (np.array([5, 1, 5]), (7, 2), None),
        "one row, one column": (np.array([[0]]), (1, 1), None),
        "no batch axis": (np.array(3), (4, 2), None),
        "no indices": (np.zeros((0, 2), int), (4, 2), None),
        "uint8 into 300 rows": (np.array([0, 255, 44], np.uint8), (300, 2), None),
        "padding": (np.array([[0, 2, 1], [0, 0, 2]]), (3, 2), 0),
        "nothing but padding": (np.array([1, 1]), (2, 3), 1),
        "padding outside": (np.array([[-1, 2], [0, -1]]), (3, 2), -1),
    }
    return [
        Case(name, rules.embedding(padding), (x, normal(*shape)), embedding(padding))
        for name, (x, shape, padding) in table.items()
    ]


def add_positions(x, w):
    return x + jnp.stack([w[: x.shape[1]]] * x.shape[0]).reshape(x.shape)


def position_cases():
    table = {
        "shorter than w": ((3, 2, 4), 5),
        "as long": ((2, 3, 2), 3),
        "all of size one": ((1, 1, 1), 1),
        "no steps": ((2, 0, 3), 2),
    }
    return [
        Case(name, rules.add_positions, (normal(*s), normal(n, s[2])), add_positions)
        for name, (s, n) in table.items()
    ]


CASES = {
    "affine": product_cases(rules.affine, affine, bias=True),
    "matmul": product_cases(rules.matmul, matmul, bias=False),
    "embedding": embedding_cases(),
    "add_positions": position_cases(),
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
        )
    ],
}
