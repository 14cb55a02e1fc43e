"""Prepared data: how many samples, how large, what was rejected; and its meshes back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from threed_gen.console import progress
from threed_gen.data import inspect
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.index import INDEX_NAME
from threed_gen.data.pack import REJECTS_NAME
from threed_gen.data.status import read_status, told
from threed_gen.errors import UserError, disk_errors
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.render.clay import render
from threed_gen.report.pictures import Row as PictureRow
from threed_gen.report.pictures import contact_sheet

MOST_PICTURES = 24
PICTURE_SIZE = 192
ACROSS = 6


def show_data(path: Path) -> None:
    """Print how far `prepare` is, unless it is done, and what the index lists."""
    status = read_status(path)
    packed = (path / INDEX_NAME).is_file()
    if status is not None and (status.running or not packed):
        print(f"{path}: {status}")
        if not packed:
            return
        print()
    summary = inspect.summarise(path)
    print(f"{path}: {max(grid.samples for grid in summary.grids):,} samples\n\n{summary}")
    print(_left_out(path / REJECTS_NAME))


def _left_out(rejects: Path) -> str:
    """Who has no sample and why, by the list that was written with the shards."""
    found: dict[str, Counter[str]] = {"reject": Counter(), "failed": Counter()}
    if rejects.is_file():
        # Not `splitlines`: a file's name may hold one of the many other ends of line of Unicode.
        for text in rejects.read_text("utf-8").split("\n"):
            line = json.loads(text) if text else {}
            counts = found.get(str(line.get("status", "reject")))
            if text and counts is not None:
                counts[str(line.get("reason", "unknown"))] += 1
    see = f" (see {rejects})" if any(found.values()) else ""
    failed = told(found["failed"])
    again = "" if failed == "none" else " (`prepare --retry-failed` tries them again)"
    return f"rejected: {told(found['reject'])}{see}\nfailed: {failed}{again}"


def verify(path: Path) -> None:
    """Compare every byte of every shard with the checksums of the index."""
    inspect.verify(path)
    print("all shards are as they were written")


def extract(path: Path, out: Path, resolution: int | None) -> None:
    """Write one mesh per sample into `out`, named by the stem of its source."""
    _, grid = _open(path, resolution)
    with disk_errors(out, "the meshes"):
        written = inspect.extract(path, out, grid)
    print(f"\n{len(written)} meshes in {out}")


def draw(path: Path, out: Path, resolution: int | None) -> None:
    """Write a picture of the first shapes, as they come back from the stored grids."""
    dataset, grid = _open(path, resolution)
    count = min(len(dataset), MOST_PICTURES)
    rows = []
    for index in progress(range(count), "drawing", "shape"):
        picture = render(extract_mesh(dataset.load(index, grid)), size=PICTURE_SIZE)
        rows.append(PictureRow(dataset.entry(index).id, [picture]))
    title = f"{count} of {len(dataset)} samples at resolution {grid}"
    with disk_errors(out, "the picture"):
        contact_sheet(rows, (), title, across=ACROSS).save(out)
    print(f"\npicture: {out}")


def _open(path: Path, resolution: int | None) -> tuple[SDFDataset, int]:
    """The data set and the stored resolution to look at: the one asked for, or the finest."""
    dataset = SDFDataset(path)
    stored = dataset.index.resolutions
    if resolution is not None and resolution not in stored:
        known = ", ".join(map(str, stored))
        raise UserError(f"{path}: resolution {resolution} is not stored (stored: {known})")
    return dataset, resolution if resolution is not None else max(stored)
