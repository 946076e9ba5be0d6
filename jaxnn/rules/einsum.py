"""Products of two arrays along any axes."""

from string import ascii_letters
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxnn.errors import JaxnnError
from jaxnn.rules.core import Rule


def einsum(subscripts: str = "ij,jk->ik") -> Rule:
    """y = the sum, over every index that the output does not name, of a times b.

    Each cotangent is an einsum of dy and the other operand that keeps the operand's
    own indices. Along an index that only this operand has every element gets the same;
    off a diagonal that was taken ("ii") every element gets 0. Keeps a and b.

    Args:
      subscripts: as in `numpy.einsum`, for two operands. An index may be carried along
        ("bij,bjk->bik"), summed in one operand alone ("ij,k->k") or repeated in it
        ("ii,i->i"). "..." is all axes not named; these broadcast. Without "->" the
        output names each index that occurs once, in alphabetic order.

    Raises:
      JaxnnError: not two operands, an output that names an index twice or one that no
        operand has; when it runs, shapes that do not fit.

    Source: Laue, Mitterreiter, Giesen 2020, "A simple and efficient tensor calculus".

    >>> import jax.numpy as jnp
    >>> einsum("ij,ij->i").fwd(jnp.ones((2, 3)), jnp.ones((2, 3)))[0].tolist()
    [3.0, 3.0]
    """
    terms = _parse(subscripts)

    def fwd(a, b):
        own_a, own_b, out = _fit(subscripts, terms, a.shape, b.shape)
        narrow = a.reshape(own_a.shape), b.reshape(own_b.shape)
        return jnp.einsum(f"{own_a.index},{own_b.index}->{out}", *narrow), (a, b)

    def bwd(cache, dy):
        a, b = cache
        own_a, own_b, out = _fit(subscripts, terms, a.shape, b.shape)
        da = _cotangent(own_a, own_b.index, out, b.reshape(own_b.shape), dy)
        db = _cotangent(own_b, own_a.index, out, a.reshape(own_a.shape), dy)
        return da.reshape(a.shape).astype(a.dtype), db.reshape(b.shape).astype(b.dtype)

    return Rule("einsum", fwd, bwd)


class Operand(NamedTuple):
    """The axes of an operand, without those of size 1 that broadcasting stretches."""

    index: str  # one letter an axis
    shape: tuple[int, ...]


def _cotangent(own: Operand, other_index: str, out: str, other: Array, dy: Array):
    """What dy means for the operand `own`, in its shape."""
    first = [own.index.index(letter) for letter in own.index]
    # axes along which the cotangents differ; the operand summed alone over the others
    known = [
        i == first[i] and letter in out + other_index
        for i, letter in enumerate(own.index)
    ]
    kept = "".join(letter for letter, k in zip(own.index, known, strict=True) if k)
    d = jnp.einsum(f"{out},{other_index}->{kept}", dy, other)
    sizes = [n if k else 1 for n, k in zip(own.shape, known, strict=True)]
    d = jnp.broadcast_to(d.reshape(sizes), own.shape)
    for i, j in enumerate(first):
        if i != j:  # a diagonal was taken: nothing else had a part in y
            places = [lax.broadcasted_iota(jnp.int32, own.shape, k) for k in (i, j)]
            d = jnp.where(places[0] == places[1], d, 0)
    return d


def _parse(subscripts: str) -> tuple[str, str, str]:
    """The two operands' terms and the output's, written out."""
    left, arrow, out = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    letters = left.replace("...", "").replace(",", "")
    if len(terms) != 2 or not all(map(_readable, terms)):
        raise JaxnnError(
            f"einsum({subscripts!r}): expected two operands of letters, each with one "
            "'...' at most, such as 'ij,jk->ik'"
        )
    if not arrow:
        once = sorted(c for c in set(letters) if letters.count(c) == 1)
        out = ("..." if "..." in left else "") + "".join(once)
    named = out.replace("...", "")
    if not _readable(out) or len(set(named)) < len(named) or set(named) - set(letters):
        raise JaxnnError(
            f"einsum({subscripts!r}): got the output {out!r}, expected letters of the "
            "operands, each once"
        )
    if "..." in out and "..." not in left:
        raise JaxnnError(
            f"einsum({subscripts!r}): the output has '...' but no operand does"
        )
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
    a, b = (
        Operand(*_without_stretched(index, shape, sizes))
        for index, shape in zip(indices, shapes, strict=True)
    )
    return a, b, terms[2].replace("...", dots)


def _without_stretched(index, shape, sizes):
    kept = [i for i, letter in enumerate(index) if shape[i] == sizes[letter]]
    return "".join(index[i] for i in kept), tuple(shape[i] for i in kept)
