"""Products: with weights, of any two arrays, and with one-hot rows (embeddings)."""

from string import ascii_letters
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxnn.errors import JaxnnError
from jaxnn.rules import products
from jaxnn.rules.core import Rule, register

__all__ = ["add_positions", "affine", "einsum", "embedding", "matmul"]


def _affine_fwd(x, w, b):
    # x (..., I), w (I, O), b (O,) -> y (..., O)
    _check("affine", x, w)
    y = products.matmul(x, w)
    return y + b.reshape((1,) * (y.ndim - 1) + b.shape), (x, w)


def _affine_bwd(cache, dy):
    # dy (..., O) -> dx (..., I), dw (I, O), db (O,)
    return *_matmul_bwd(cache, dy), products.rows(dy).sum(0)


def _matmul_fwd(x, w):
    # x (..., I), w (I, O) -> y (..., O)
    _check("matmul", x, w)
    return products.matmul(x, w), (x, w)


def _matmul_bwd(cache, dy):
    x, w = cache
    return products.product_nt(dy, w), products.weight_gradient(x, dy)


def _check(name, x, w):
    # `@` would take stacked matrices too, whose gradients are another formula
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[0]:
        raise JaxnnError(
            f"{name}: expected x (..., I) and w (I, O), got {x.shape} and {w.shape}; "
            "for stacked matrices use einsum"
        )


affine = Rule("affine", _affine_fwd, _affine_bwd)
"""y = x w + b, with dx = dy w^T, dw = x^T dy, db = sum of dy over the rows.

x (..., I), w (I, O), b (O,) -> y (..., O). Keeps x and w: each is the other's
derivative. Smooth, no kinks. Source: Goodfellow, Bengio, Courville 2016, section 6.5.
"""

matmul = Rule("matmul", _matmul_fwd, _matmul_bwd)
"""y = x w: `affine` without its bias. x (..., I), w (I, O) -> y (..., O)."""


def einsum(subscripts: str = "ij,jk->ik") -> Rule:
    """y = the sum, over every index that the output does not name, of a times b.

    Each cotangent is an einsum of dy and the other operand that keeps the operand's
    own indices. Along an index that only this operand has every element gets the same.
    Keeps a and b.

    Args:
      subscripts: as in `numpy.einsum`, for two operands. An index may be carried along
        ("bij,bjk->bik") or summed in one operand alone ("ij,k->k"), and stands once in
        an operand. "..." is all axes not named; these broadcast. Without "->" the
        output names each index that occurs once, in alphabetic order.

    Raises:
      JaxnnError: not two operands, an index twice in one, an output that names an index
        twice or one that no operand has; when it runs, shapes that do not fit.

    Source: Laue, Mitterreiter, Giesen 2020, "A simple and efficient tensor calculus".

    >>> import jax.numpy as jnp
    >>> einsum("ij,ij->i").fwd(jnp.ones((2, 3)), jnp.ones((2, 3)))[0].tolist()
    [3.0, 3.0]
    """
    terms = _parse(subscripts)

    def fwd(a, b):
        own_a, own_b, out = _fit(subscripts, terms, a.shape, b.shape)
        narrow = a.reshape(own_a.shape), b.reshape(own_b.shape)
        y = products.einsum(f"{own_a.index},{own_b.index}->{out}", *narrow)
        return y, (a, b)

    def bwd(cache, dy):
        a, b = cache
        own_a, own_b, out = _fit(subscripts, terms, a.shape, b.shape)
        da = _cotangent(own_a, own_b, out, b, dy)
        db = _cotangent(own_b, own_a, out, a, dy)
        return da.reshape(a.shape).astype(a.dtype), db.reshape(b.shape).astype(b.dtype)

    return Rule("einsum", fwd, bwd)


class Operand(NamedTuple):
    """The axes of an operand, without those of size 1 that broadcasting stretches."""

    index: str  # one letter an axis
    shape: tuple[int, ...]


def _cotangent(own: Operand, other: Operand, out: str, value: Array, dy: Array):
    """What dy means for the operand `own`, in its shape; the other has that value."""
    # axes along which the cotangents differ; the operand summed alone over the others
    known = [letter in out + other.index for letter in own.index]
    kept = "".join(letter for letter, k in zip(own.index, known, strict=True) if k)
    value = value.reshape(other.shape)
    d = products.einsum(f"{out},{other.index}->{kept}", dy, value)
    sizes = [n if k else 1 for n, k in zip(own.shape, known, strict=True)]
    return jnp.broadcast_to(d.reshape(sizes), own.shape)


def _parse(subscripts: str) -> tuple[str, str, str]:
    """The two operands' terms and the output's, written out."""
    where = f"einsum({subscripts!r})"
    left, arrow, out = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    letters = left.replace("...", "").replace(",", "")
    if len(terms) != 2 or not all(map(_readable, terms)):
        raise JaxnnError(
            f"{where}: expected two operands of letters, each with one '...' at most, "
            "such as 'ij,jk->ik'"
        )
    for term in terms:
        twice = sorted(c for c in set(term) - {"."} if term.count(c) > 1)
        if twice:
            raise JaxnnError(
                f"{where}: got the index {twice[0]!r} twice in the operand {term!r}, "
                "which means its diagonal; expected each index once in an operand: "
                "multiply by an identity matrix and sum, 'ij,ij->i'"
            )
    if not arrow:
        once = sorted(c for c in set(letters) if letters.count(c) == 1)
        out = ("..." if "..." in left else "") + "".join(once)
    named = out.replace("...", "")
    if not _readable(out) or len(set(named)) < len(named) or set(named) - set(letters):
        raise JaxnnError(
            f"{where}: got the output {out!r}, expected letters of the operands, each "
            "once"
        )
    if "..." in out and "..." not in left:
        raise JaxnnError(f"{where}: the output has '...' but no operand does")
    return terms[0], terms[1], out


def _readable(term: str) -> bool:
    return set(term.replace("...", "", 1)) <= set(ascii_letters)


def _fit(subscripts, terms, *shapes) -> tuple[Operand, Operand, str]:
    """The operands and the output with letters for '...' too, sizes checked."""
    pairs = list(zip(terms[:2], shapes, strict=True))
    unnamed = [len(shape) - len(term.replace("...", "")) for term, shape in pairs]
    fits = all(
        n >= 0 if "..." in term else n == 0
        for n, term in zip(unnamed, terms[:2], strict=True)
    )
    spare = [c for c in ascii_letters if c not in subscripts]
    dots = "".join(spare[: max(unnamed)])
    # broadcasting counts from the last axis, so the shorter one lacks the first letters
    indices = [
        term.replace("...", dots[len(dots) - n :])
        for n, (term, _) in zip(unnamed, pairs, strict=True)
    ]
    sizes: dict[str, int] = {}
    for index, shape in zip(indices, shapes, strict=True):
        for letter, size in zip(index, shape, strict=False):
            known = sizes.setdefault(letter, size)
            stretches = letter in dots and 1 in (size, known)
            fits = fits and (size == known or stretches)
            sizes[letter] = size if stretches and known == 1 else known
    if not fits:
        raise JaxnnError(
            f"einsum({subscripts!r}): shapes {shapes[0]} and {shapes[1]} do not fit; "
            "expected an axis a letter, and one size for each letter"
        )
    operands = []
    for index, shape in zip(indices, shapes, strict=True):
        kept = [(c, n) for c, n in zip(index, shape, strict=True) if n == sizes[c]]
        own = Operand("".join(c for c, _ in kept), tuple(n for _, n in kept))
        operands.append(own)
    return operands[0], operands[1], terms[2].replace("...", dots)


class Looked(NamedTuple):
    """What an embedding keeps: which rows were read, and of a table of how many."""

    rows: Array  # x, `count` where nothing may come back
    empty: Array  # (count, 0): carries the number of rows, and no memory


def embedding(padding: int | None = None) -> Rule:
    """y = w[x]: x int (...), w (I, O) -> y (..., O).

    The table's gradient is the sum of dy over the places where each row was read (in
    float32 at least: a bfloat16 sum stalls after 256 ones); x has none. Where x is
    `padding`, y is 0 and nothing comes back. An index outside [0, I) gives a row of
    NaN rather than somebody else's row, -1 too: an error cannot be raised under jit.
    Keeps x. Source: Bengio et al. 2003.
    """

    def fwd(x, w):
        count = w.shape[0]
        x = x.astype(jnp.promote_types(x.dtype, jnp.int32))  # uint8 has no 256
        rows = jnp.where((x < 0) | (x >= count), count, x)
        y = w.at[rows].get(mode="fill", fill_value=jnp.nan)
        if padding is not None:
            rows = jnp.where(x == padding, count, rows)
            y = jnp.where((x == padding)[..., None], 0, y)
        return y, Looked(rows, w[:, :0])

    def bwd(cache, dy):
        rows, empty = cache
        wide = jnp.promote_types(dy.dtype, jnp.float32)
        dw = jnp.zeros((empty.shape[0], dy.shape[-1]), wide)
        dw = dw.at[rows].add(dy.astype(wide), mode="drop")
        return None, dw.astype(dy.dtype)

    return Rule("embedding", fwd, bwd)


def _positions_fwd(x, w):
    return x + w[None, : x.shape[1]], w[:, :0]


def _positions_bwd(empty, dy):
    dw = dy.sum(0)
    unread = empty.shape[0] - dy.shape[1]
    return dy, jnp.pad(dw, ((0, unread), (0, 0)))


add_positions = Rule("add_positions", _positions_fwd, _positions_bwd)
"""y[b, t] = x[b, t] + w[t]: x (B, T, O), w (I, O) with I >= T -> y (B, T, O).

dx = dy, dw = sum of dy over the batch, 0 for rows beyond T. Keeps nothing.
Source: Gehring et al. 2017, learned positions."""


register(add_positions, affine, einsum(), embedding(), matmul)
