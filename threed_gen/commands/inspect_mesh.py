"""A mesh file: its numbers, whether it is closed, and a picture of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from threed_gen.console import table
from threed_gen.errors import disk_errors
from threed_gen.geometry.mesh import boundary_edge_count
from threed_gen.geometry.mesh_io import load_mesh
from threed_gen.geometry.render.clay import render

PICTURE_SIZE = 640


def show_mesh(path: Path, picture: Path | None) -> None:
    """Print the numbers and write `picture` (default: <name>.inspect.png in this folder)."""
    mesh = load_mesh(path)
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    triangles = mesh.vertices[mesh.faces]  # [F, 3, 3]
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    holes = boundary_edge_count(mesh)
    rows = [
        ("vertices", f"{len(mesh.vertices):,} (merged by position)"),
        ("faces", f"{len(mesh.faces):,}"),
        ("box", " × ".join(f"{side:.5g}" for side in high - low)),
        ("centre", ", ".join(f"{x:.5g}" for x in (low + high) / 2)),
        ("area", f"{np.linalg.norm(normals, axis=1).sum() / 2:.5g}"),
        ("closed", "yes" if holes == 0 else f"no: {holes:,} open edges"),
    ]
    if holes == 0:
        volume = np.einsum("ij,ij->i", triangles[:, 0], normals).sum() / 6
        rows.append(("volume", f"{abs(volume):.5g}" + (" (inside out)" if volume < 0 else "")))
    print(table([path.name, ""], rows))
    target = picture if picture is not None else Path(f"{path.stem}.inspect.png")
    with disk_errors(target, "the picture"):
        Image.fromarray(render(mesh, size=PICTURE_SIZE)).save(target)
    print(f"\npicture: {target}")
