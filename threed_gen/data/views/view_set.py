"""Reading views: any picture of any sample, checked, with its camera.

Opening reads the index once for its checksum and keeps where each sample's line lies; a picture is
two small reads. So it is cheap to open, small to send to the workers of a loader, and safe to use
in several of them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from threed_gen.data.payload import CorruptSampleError
from threed_gen.data.shard import read_member
from threed_gen.data.table import check_head
from threed_gen.data.views.index import (
    FOLDER,
    FORMAT,
    VERSION,
    VIEWS_NAME,
    ViewSample,
    damaged,
    sample_of,
)
from threed_gen.errors import UserError
from threed_gen.geometry.render.camera import Camera

_ID = b'{"id":'


@dataclass(frozen=True)
class View:
    """One picture of a sample."""

    rgba: NDArray[np.uint8]  # [S, S, 4] sRGB with straight alpha
    camera: Camera
    sha256: str  # of the stored bytes: the picture's identity


class ViewSet:
    """The views of a folder made by `prepare --views`."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / VIEWS_NAME
        if not self.path.is_file():
            raise UserError(
                f"{self.folder}: there are no views in it; run the `threed-gen prepare` that made "
                "it again with `--views 24`"
            )
        self._places = _places(self.path)

    @property
    def samples(self) -> list[str]:
        """Ids of the samples that have views, in the order of the source."""
        return list(self._places)

    def count(self, sample: str) -> int:
        """How many views a sample has; UserError if it has none."""
        return len(self._sample(sample).views)

    def load(self, sample: str, number: int) -> View:
        """View `number` of a sample, from 0.

        CorruptSampleError names shard and sample if the stored bytes are damaged; UserError if
        there is no such view.
        """
        found = self._sample(sample)
        if not 0 <= number < len(found.views):
            raise UserError(
                f"{self.path}: sample '{sample}' has {len(found.views)} views, there is no "
                f"number {number}"
            )
        view = found.views[number]
        shard = self.folder / FOLDER / found.shard
        try:
            content = read_member(shard, view.offset, view.size, view.sha256)
            return View(_decoded(content), view.camera, view.sha256)
        except CorruptSampleError as err:
            raise CorruptSampleError(
                f"{shard}: view {number} of sample '{sample}': {err}; restore the file, or delete "
                "it and run `threed-gen prepare` again with the same arguments, which draws what "
                "is missing"
            ) from err

    def _sample(self, sample: str) -> ViewSample:
        place = self._places.get(sample)
        if place is None:
            raise UserError(
                f"{self.path}: sample '{sample}' has no views; views_rejects.jsonl beside it says "
                "why if it failed, else run `threed-gen prepare` again with the same arguments"
            )
        handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            line = os.pread(handle, place[1], place[0])
        finally:
            os.close(handle)
        try:
            found = sample_of(json.loads(line))
        except (ValueError, KeyError, TypeError) as err:
            raise damaged(self.path, f"{type(err).__name__}: {err}") from err
        if found.id != sample:  # written anew since it was opened
            raise UserError(f"{self.path}: has changed while it was in use; start again")
        return found


def _places(path: Path) -> dict[str, tuple[int, int]]:
    """Where the line of each sample begins, and its length; the file is checked on the way."""
    digest = hashlib.sha256()
    places: dict[str, tuple[int, int]] = {}
    decoder = json.JSONDecoder()
    with path.open("rb") as file:
        first = file.readline()
        table = file.readline()
        digest.update(table)
        at = len(first) + len(table)
        for line in file:
            digest.update(line)
            try:
                if not line.startswith(_ID):
                    raise ValueError("a line does not begin with an id")
                head = line[len(_ID) : 4096].decode("utf-8", "ignore")
                name, _ = decoder.raw_decode(head)
            except ValueError as err:
                raise damaged(path, str(err)) from err
            places[str(name)] = (at, len(line))
            at += len(line)
    count = check_head(
        first, digest.hexdigest(), str(path), FORMAT, VERSION, partial(damaged, path)
    )
    if count != len(places):
        raise damaged(path, f"it should list {count} samples, not {len(places)}")
    return places


def _decoded(content: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content), formats=("WEBP",)) as image:
            # An opaque picture comes back without its alpha.
            return np.array(image.convert("RGBA"), dtype=np.uint8)
    except (OSError, ValueError) as err:
        raise CorruptSampleError(f"it is no picture ({err})") from err
