"""Distances in float64: against libigl, on slivers, on degenerate triangles, beyond reach."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest

from tests.geometry.shapes import box, box_distance, icosphere
from threed_gen.geometry.bvh import build_box_tree
from threed_gen.geometry.distance import TriangleDistance


def random_triangles(count: int, sliver: float, seed: int) -> np.ndarray:
    """Triangles in the unit cube whose third corner lies `sliver` lengths off the first side."""
    rng = np.random.default_rng(seed)
    a, b, off = rng.random((3, count, 3))
    along = rng.random((count, 1))
    return np.stack([a, b, a + along * (b - a) + sliver * (off - 0.5)], axis=1)


@pytest.mark.parametrize("sliver", [1.0, 1e-3, 1e-6])
def test_equals_libigl(sliver: float) -> None:
    import igl

    corners = random_triangles(300, sliver, 0)
    points = np.random.default_rng(1).random((3000, 3))
    found, triangle = TriangleDistance(corners).of_points(points, 10.0)
    squared, _, _ = igl.point_mesh_squared_distance(
        points, corners.reshape(-1, 3), np.arange(900).reshape(-1, 3)
    )
    assert np.abs(found - np.sqrt(squared)).max() < 1e-10
    alone = [
        TriangleDistance(corners[t : t + 1]).of_points(p[None], 10.0)[0][0]
        for p, t in zip(points[:20], triangle[:20], strict=True)
    ]
    np.testing.assert_array_equal(found[:20], alone)


def test_degenerate_triangles_are_segments_and_points() -> None:
    corners = np.array(
        [[[0, 0, 0], [1, 0, 0], [1, 0, 0]], [[0, 5, 0]] * 3, [[0, 9, 0], [1, 9, 0], [0.3, 9, 0]]]
    )
    points = np.array([[0.5, 2, 0], [-1, 0, 0], [0, 5, 2], [0.9, 9, 1]], float)
    found, triangle = TriangleDistance(corners.astype(float)).of_points(points, 10.0)
    np.testing.assert_allclose(found, [2, 1, 2, 1])
    assert triangle.tolist() == [0, 0, 1, 2]


def test_beyond_reach_is_infinite() -> None:
    cube = TriangleDistance(box().triangles)
    points = np.array([[1.5, 0.5, 0.5], [2.5, 0.5, 0.5]])
    found, triangle = cube.of_points(points, 1.0)
    assert found[0] == 0.5
    assert np.isinf(found[1])
    assert triangle[1] == -1


def test_bricks_equal_points() -> None:
    ball = TriangleDistance(icosphere(0.3, 2, (0.5, 0.5, 0.5)).triangles)
    bricks = np.array([[0, 0, 0], [1, 2, 1], [3, 3, 3], [1, 1, 3]], np.int32)
    reach = 0.11
    grid = np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), -1).reshape(-1, 3)
    centres = (bricks[:, None] * 8 + grid + 0.5) / 32
    expected = ball.of_points(centres.reshape(-1, 3), reach)[0].reshape(4, 512)
    np.testing.assert_array_equal(ball.of_bricks(bricks, 32, reach), expected)
    assert np.isinf(expected).any()
    assert np.isfinite(expected).any()


def test_no_points() -> None:
    found, triangle = TriangleDistance(box().triangles).of_points(np.zeros((0, 3)), 1.0)
    assert found.shape == triangle.shape == (0,)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 31, 100])
def test_tree_holds_every_triangle_in_its_boxes(count: int) -> None:
    corners = random_triangles(count, 1.0, count)
    tree = build_box_tree(corners)
    assert sorted(tree.order.tolist()) == list(range(count))
    np.testing.assert_array_equal(tree.corners, corners[tree.order])
    assert tree.leaf_start[0] == 0
    assert tree.leaf_start[-1] == count
    for leaf in range(tree.leaves):
        own = tree.corners[tree.leaf_start[leaf] : tree.leaf_start[leaf + 1]]
        assert len(own) >= 1
        node = tree.leaves + leaf
        while node:
            assert (own >= tree.low[node]).all()
            assert (own <= tree.high[node]).all()
            node //= 2


def _distance_in_child(_: int) -> float:
    points = np.array([[0.5, 0.5, 2.0]])
    return float(TriangleDistance(box().triangles).of_points(points, 9.0)[0][0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_works_in_worker_processes(method: str) -> None:
    assert _distance_in_child(0) == 1.0
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_distance_in_child, range(2)) == [1.0, 1.0]


def test_starts_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    import subprocess
    import sys

    program = (
        "import numpy as np\n"
        "from threed_gen.geometry.distance import TriangleDistance\n"
        "TriangleDistance(np.eye(3)[None]).of_points(np.zeros((1, 3)), 9.0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_box_distance_of_the_tests_is_right() -> None:
    points = np.random.default_rng(0).uniform(-1, 2, (500, 3))
    found, _ = TriangleDistance(box().triangles).of_points(points, 9.0)
    np.testing.assert_allclose(found, np.abs(box_distance(points, 0, 1)), atol=1e-12)
