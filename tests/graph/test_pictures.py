import re
import shutil
import subprocess
from itertools import combinations, pairwise
from xml.etree import ElementTree

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxnn import graph
from jaxnn.errors import JaxnnError
from jaxnn.graph import picture
from jaxnn.graph.dot import numbers
from jaxnn.graph.picture import crossings, place, separated


def xor():
    """A 2-2-1 network with every weight a node of its own, 31 nodes; and feeds."""
    rng = np.random.default_rng(1)

    def weight(name):
        return graph.parameter(round(rng.normal(), 2), name)

    x1, x2, t = graph.feed("x1"), graph.feed("x2"), graph.feed("t")
    hidden = []
    for j in "12":
        z = weight(f"w1{j}") * x1 + weight(f"w2{j}") * x2 + weight(f"b{j}")
        hidden.append(graph.tanh(z, name=f"h{j}"))
    z = weight("v1") * hidden[0] + weight("v2") * hidden[1] + weight("c")
    y = graph.sigmoid(z, name="y")
    return graph.square(y - t, name="loss"), {x1: 1.0, x2: 0.0, t: 1.0}


STATEMENT = re.compile(
    r'  (node|edge) \[.*\];|  n\d+ \[label="(\\.|[^"\\])*", shape=\w+.*\];'
    r'|  n\d+ -> n\d+( \[label="(\\.|[^"\\])*"\])?;'
)


def check_dot(text, nodes, edges):
    first, *lines, last = text.split("\n")
    assert re.fullmatch(r'digraph "(\\.|[^"\\])*" \{', first)
    assert last == "}"
    assert all(STATEMENT.fullmatch(line) for line in lines)
    assert sum("shape=" in line for line in lines) == nodes
    assert sum("->" in line for line in lines) == edges
    if shutil.which("dot"):
        subprocess.run(["dot", "-Tsvg"], input=text.encode(), check=True)


def test_dot_has_every_node_and_edge():
    root, feeds = xor()
    nodes = graph.order(root)
    edges = sum(len(n.inputs) for n in nodes)
    check_dot(graph.to_dot(root), len(nodes), edges)
    text = graph.to_dot(root, *graph.inspect(root, feeds))
    check_dot(text, len(nodes), edges)
    assert 'label="h1 = tanh\\n' in text
    assert text.count("grad ") == len(nodes)


def test_dot_escapes_whatever_a_name_holds():
    x = graph.feed('a "quoted" \\ name\nin two lines')
    check_dot(graph.to_dot(x * x), 2, 2)
    assert r'label="a \"quoted\" \\ name\nin two lines"' in graph.to_dot(x)


def test_dot_shows_what_is_given_only():
    x = graph.feed("x")
    y = x * 2
    text = graph.to_dot(y, values={x: np.ones((5, 5))}, grads={y: np.float32(0.5)})
    assert r'label="x\n(5, 5)  mean 1\nmin 1  max 1"' in text
    assert r"grad 0.5" in text
    assert text.count("grad") == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.float32(-0.5), ["\N{MINUS SIGN}0.5"]),
        (np.array(True), ["True"]),
        (np.array([1, 2]), ["1  2"]),
        (np.array([[1.0], [2.25]]), ["1", "2.25"]),
        (np.zeros((0, 3)), ["(0, 3)  empty"]),
        (np.full((3, 3), np.nan), ["(3, 3)", "9 of 9 not finite"]),
        (np.array([1.0] * 9 + [np.inf]), ["(10,)", "1 of 10 not finite"]),
        (np.array([np.nan, 1e-9]), ["nan  1e\N{MINUS SIGN}09"]),
        (jnp.ones(9, jnp.bfloat16), ["(9,)  mean 1", "min 1  max 1"]),
        (np.zeros((2, 3, 4), bool), ["(2, 3, 4)  mean 0", "min 0  max 0"]),
    ],
)
def test_values_in_words(value, words):
    assert numbers(value) == words


def boxes(at, sizes, labels):
    """(left, right, top, bottom) of every box and label."""
    bends = {chain[0]: labels[e] for e, chain in at.bends.items() if e in labels}
    found = []
    for item, (width, height) in (sizes | bends).items():
        x, y = at.x[item], at.middle(item)
        found.append((x - width / 2, x + width / 2, y - height / 2, y + height / 2))
    return found


@st.composite
def graphs(draw):
    """A random graph, the sizes of its boxes and of its labels."""
    nodes = [graph.feed("x0"), graph.feed("x1")]
    for i in range(draw(st.integers(1, 12))):
        known = st.integers(0, len(nodes) - 1)
        nodes.append(nodes[draw(known)] + nodes[draw(known)])
        if i % 3 == 0:
            nodes.append(nodes[-1] * graph.feed(f"f{i}"))
    nodes = graph.order(nodes[-1])
    size = st.tuples(st.floats(0.1, 3), st.floats(0.1, 1))
    edges = [(n, i) for n in nodes for i in range(len(n.inputs))]
    return nodes, {n: draw(size) for n in nodes}, {e: draw(size) for e in edges[::2]}


@settings(max_examples=15)
@given(drawn=graphs())
def test_no_box_or_label_covers_another(drawn):
    nodes, sizes, labels = drawn
    at = place(nodes, sizes, labels)
    found = boxes(at, sizes, labels)
    for (l1, r1, t1, b1), (l2, r2, t2, b2) in combinations(found, 2):
        assert r1 <= l2 + 1e-9 or r2 <= l1 + 1e-9 or b1 <= t2 + 1e-9 or b2 <= t1 + 1e-9
    assert min(f[0] for f in found) >= -1e-9
    assert max(f[1] for f in found) <= at.width + 1e-9
    for node in nodes:  # consumers below
        assert all(at.row[source] < at.row[node] for source in node.inputs)


def test_layout_of_a_chain_is_a_straight_line():
    y = graph.feed("x")
    for _ in range(5):
        y = graph.tanh(y)
    nodes = graph.order(y)
    at = place(nodes, dict.fromkeys(nodes, (1.0, 0.5)), {})
    np.testing.assert_allclose(list(at.x.values()), 0.5, atol=1e-9)


def test_separated_finds_the_nearest_places():
    wish, apart, weight = [0.0, 0, 0, 9], [1.0, 1, 1], [1.0] * 4
    np.testing.assert_allclose(separated(wish, apart, weight), [-1, 0, 1, 9])
    np.testing.assert_allclose(separated([1.0, 0], [2.0], [3.0, 1]), [0.25, 2.25])


def test_edges_of_the_xor_network_cross_as_seldom_as_they_can():
    # both inputs go to both units: one crossing, and two more for the weights between
    root, _ = xor()
    nodes = graph.order(root)
    at = place(nodes, dict.fromkeys(nodes, (1.0, 0.5)), {})
    rows = {}
    for item, r in at.row.items():
        rows.setdefault(r, []).append(item)
    rows = [sorted(rows[r], key=at.x.__getitem__) for r in sorted(rows)]
    near = {item: [] for item in at.row}
    for (node, i), chain in at.bends.items():
        for a, b in pairwise([node.inputs[i], *chain, node]):
            near[a].append(b)
    assert crossings(rows, near) == 3


def colors(path):
    """The colors of a picture that at least 20 of its points have."""
    image = Image.open(path).convert("RGB")
    found = image.getcolors(2**24)
    return image.size, {f"#{r:02x}{g:02x}{b:02x}" for n, (r, g, b) in found if n >= 20}


def test_picture_of_the_xor_network(tmp_path):
    root, feeds = xor()
    graph.draw(root, feeds, tmp_path / "xor.png")
    (width, height), found = colors(tmp_path / "xor.png")
    assert 500 < width < 1000 < height < 2000
    for kind in ("feed", "parameter"):
        assert picture.FILL[kind] in found
    assert "#d55e00" in found  # gradients


def test_picture_without_a_loss_shows_values_only(tmp_path):
    x = graph.feed("x")
    graph.draw(x * 2, {x: np.ones((5, 5))}, tmp_path / "values.png")
    assert "#d55e00" not in colors(tmp_path / "values.png")[1]
    graph.draw(x, {x: 3}, tmp_path / "one.png")
    assert colors(tmp_path / "one.png")[0][0] > 100


def test_a_notebook_shows_a_node_as_the_graph_that_leads_to_it(tmp_path):
    root, feeds = xor()
    text = root._repr_svg_()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert len(ElementTree.fromstring(text).findall(".//*[@id]")) > 31
    assert len(text) < 500_000
    figure = graph.draw(root, feeds)
    assert figure._repr_png_()[:4] == b"\x89PNG"
    graph.draw(root, feeds, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")
    for _ in range(200):
        root = graph.relu(root)
    assert root._repr_svg_() is None


def test_picture_of_too_many_nodes_says_what_to_do(tmp_path):
    y = graph.feed("x")
    for _ in range(200):
        y = graph.relu(y)
    with pytest.raises(JaxnnError, match=r"201 nodes.*to_dot"):
        graph.draw(y, {"x": 1.0}, tmp_path / "much.png")


@pytest.mark.parametrize("name", [r"$\frac$", "a$b$c", "a\udcff\x1b"])
def test_a_name_is_drawn_as_it_is_written(tmp_path, name):
    x = graph.feed(name)
    graph.draw(graph.sum(graph.tanh(x), name=name), {x: np.ones(3)}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
