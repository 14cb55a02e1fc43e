"""The files beside a mesh file: the one place that decides what a reference may open.

A reference is followed only when it names a file inside the folder of the asset (or inside its
archive): no scheme, no absolute path, no way up, also not behind percent signs, backslashes or
symbolic links. References are judged before the file system is asked anything.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.reading.reasons import ReadLimits, reject, shown

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_ROUNDS = 8  # of percent-encoding that are looked behind


class Beside(Protocol):
    """The other files of an asset, by the name that the mesh file gives them."""

    def read(self, reference: str) -> bytes:
        """The content; MeshError outside_reference, missing_file or too_large."""
        ...

    def has(self, reference: str) -> bool:
        """Whether there is such a file; what lies outside is not looked for, and is not there."""
        ...


def candidates(reference: str) -> list[str]:
    """The relative names that a reference may mean: decoded, as glTF wants it, or as it stands.

    Raises MeshError outside_reference when any reading of it leads out of the folder.
    """
    forms = [reference]
    while len(forms) <= _ROUNDS and (decoded := unquote(forms[-1])) != forms[-1]:
        forms.append(decoded)
    if len(forms) > _ROUNDS or not all(map(_is_inside, forms)):
        raise reject(
            "outside_reference",
            f'names "{shown(reference)}", which is not inside its own folder and is not followed; '
            "put the file beside it and name it without a path",
        )
    return list(dict.fromkeys([*forms[1:2], reference]))


def _is_inside(name: str) -> bool:
    return not (
        not name
        or len(name) > 4096
        or "\\" in name
        or "\0" in name
        or name.startswith("/")
        or _SCHEME.match(name)
        or ".." in name.split("/")
    )


class Folder:
    """The folder in which a mesh file lies. `used` is what the asset has read so far."""

    def __init__(self, folder: Path, limits: ReadLimits, used: int) -> None:
        self.folder = folder
        self.limits = limits
        self.used = used

    def read(self, reference: str) -> bytes:
        """The content of a file inside the folder."""
        path = self._find(reference)
        if path is None:
            raise reject(
                "missing_file",
                f'needs "{shown(reference)}", which is not in its folder; put it there, or save '
                "the mesh as one .glb",
            )
        # Opened without following links: the path was resolved, so a link now is a new one.
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError as err:
            raise reject(
                "missing_file", f'cannot open "{shown(reference)}": {err.strerror}'
            ) from err
        with os.fdopen(handle, "rb") as file:
            self.used += os.fstat(file.fileno()).st_size
            check_bytes(self.used, self.limits)
            return file.read()

    def has(self, reference: str) -> bool:
        """Whether the folder holds such a file."""
        try:
            return self._find(reference) is not None
        except (MeshError, ValueError):
            return False

    def _find(self, reference: str) -> Path | None:
        root = self.folder.resolve()
        for name in candidates(reference):
            try:
                path = (root / name).resolve()
            except (OSError, RuntimeError, ValueError):  # links in a circle, odd names
                continue
            if not path.is_relative_to(root):
                raise reject(
                    "outside_reference",
                    f'names "{shown(reference)}", a link that leads out of its folder and is not '
                    "followed; replace the link by the file",
                )
            try:
                if stat.S_ISREG(path.stat().st_mode):
                    return path
            except OSError:
                continue
        return None


def check_bytes(size: int, limits: ReadLimits) -> None:
    """Reject an asset for the size of its files."""
    if size > limits.max_bytes:
        raise reject(
            "too_large",
            f"needs {size / 1e6:,.0f} MB, more than the limit of {limits.max_bytes / 1e6:,.0f} MB",
        )
