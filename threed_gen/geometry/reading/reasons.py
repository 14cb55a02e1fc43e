"""Why a file is rejected, what is noted about one that is not, and how much a file may ask for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from threed_gen.console import printable
from threed_gen.geometry.mesh import MeshError

# Every reason of a MeshError that reading a file can raise. Documents print this table.
REASONS = {
    "missing": "there is no such file",
    "format": "the suffix is none that can be read",
    "empty_file": "the file has no content",
    "unreadable": "the content is damaged, cut off, or not what the suffix says",
    "unsupported_version": "a version of the format that cannot be read (glTF 1.0, binary OFF)",
    "unsupported_extension": "a glTF extension is required that cannot be read (Draco, meshopt)",
    "missing_file": "a file that holds geometry (.bin of a .gltf) is not there",
    "outside_reference": "the file names geometry outside its own folder; it is not followed",
    "node_graph": "a node of a glTF scene is its own ancestor, or has two parents",
    "no_faces": "no triangles or polygons: points, lines, curves only, or nothing with an area",
    "non_finite": "a vertex or a transform is NaN or infinite, or too far out to measure",
    "no_extent": "all vertices are in one place",
    "too_many_faces": "more faces than the limit",
    "too_large": "the file, a part of it, or what it claims to hold is larger than the limit",
    "archive_no_mesh": "a .zip without a mesh in it",
    "archive_several_meshes": "a .zip with more than one mesh in it",
    "archive_nested": "a .zip with nothing but further archives in it",
    "archive_encrypted": "a .zip with a password",
    "archive_escape": "a .zip with links, or with names that lead out of it",
    "archive_bomb": "a .zip with too many entries, or that inflates beyond the limits",
}

# What is noted about a mesh that was read.
FLAGS = {
    "alpha": "some faces have a transparent or cut-out material (alphaMode BLEND or MASK)",
    "ground_plane_dropped": "a flat sheet under the object, at least twice its size, was dropped",
    "missing_material": "an OBJ names a .mtl that is not in its folder",
    "missing_texture": "an image that a glTF names is not in its folder",
    "points_dropped": "points or lines beside the faces were dropped",
    "skinned": "a skinned mesh, taken in its rest pose",
    "skybox_dropped": "a box or dome around the object, at least 4 times its size, was dropped",
}


@dataclass(frozen=True)
class ReadLimits:
    """What one asset may ask for; judged from headers, before anything is allocated."""

    max_faces: int = 20_000_000  # triangles, after placing every instance
    max_bytes: int = 2_000_000_000  # of all files of the asset together; of an archive, inflated
    max_json_bytes: int = 200_000_000  # of the text of a glTF, without its buffers
    max_line_bytes: int = 1_000_000  # of one line of a text format
    max_entries: int = 10_000  # of an archive
    max_ratio: float = 200.0  # inflated / packed size of an archive of more than 10 MB


@dataclass(frozen=True)
class Raw:
    """What a reader found: not merged, not checked, and where its format says what is up, that."""

    vertices: NDArray[np.float64]  # [V, 3]
    faces: NDArray[np.int64]  # [F, 3]
    flags: frozenset[str] = frozenset()
    up: int | None = None  # axis that points up by the format's rules or custom


def reject(reason: str, text: str) -> MeshError:
    """The error of a reader; the door (mesh_io.py) puts the name of the file before it."""
    assert reason in REASONS, reason
    return MeshError(text, reason)


def check_faces(count: int, limits: ReadLimits) -> None:
    """Reject a file for the number of faces that it holds or claims."""
    if count > limits.max_faces:
        raise reject(
            "too_many_faces",
            f"holds {count:,} faces, more than the limit of {limits.max_faces:,}; "
            "simplify the mesh first",
        )


def shown(text: str, length: int = 200) -> str:
    """Any text (a name from a file) as one printable line of bounded length."""
    text = text if len(text) <= length else text[: length - 1] + "…"
    return printable(text).replace("\n", "\\n")
