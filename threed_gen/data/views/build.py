"""One asset becomes its pictures: the part of the views' stage that runs in the worker processes.

All pictures of an asset wait in one file, one behind the other, whole or absent. They are lossless
WebP: at 512 pixels half the size of PNG, for 0.04 s instead of 0.02 s beside 0.2 s of drawing
(benchmarks/views.py measures it), and the same bytes every time.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from threed_gen.data.ledger import Outcome
from threed_gen.data.source_kinds.asset import PaintedAsset
from threed_gen.data.sources import Asset, TryAgainError
from threed_gen.data.usage import Meter
from threed_gen.data.views.index import StoredView, camera_row
from threed_gen.data.views.params import ViewParams
from threed_gen.data.workers import Lost
from threed_gen.errors import DiskError, UserError
from threed_gen.files import write_atomically
from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.render.camera import cameras
from threed_gen.geometry.render.paint import PaintedMesh, in_unit_frame, plain
from threed_gen.geometry.render.photo import Studio, light_of


@dataclass(frozen=True)
class ViewTask:
    """An asset that has grids, and the hash of what they were made from."""

    asset: Asset
    sha256: str


def work_file(work: Path, source: str) -> Path:
    """Where the pictures of an asset wait to be packed."""
    name = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
    return work / name[:2] / f"{name}.views"


def build_views(task: ViewTask, work: Path, params: ViewParams) -> Outcome:
    """Photograph one asset and store its pictures; what goes wrong with it is its outcome.

    A MemoryError is passed on: what is too large for one process is for the caller to judge.
    """
    meter = Meter()
    outcome = _build(task, work, params)
    return replace(outcome, seconds=meter.seconds, peak_mb=meter.peak_mb)


def lost_views(task: ViewTask, why: Lost) -> Outcome:
    """The outcome of an asset that its process did not survive, or that was stopped."""
    lost = _bad(task, why.reason, why.message)
    return replace(lost, status="failed", seconds=round(why.seconds, 3), peak_mb=why.peak_mb)


def _build(task: ViewTask, work: Path, params: ViewParams) -> Outcome:
    try:
        painted = painted_asset(task.asset)
        pictures, views = _photographed(painted, task.sha256, params)
    except MemoryError:
        raise
    except TryAgainError as err:
        return replace(_bad(task, err.reason, str(err)), status="failed")
    except MeshError as err:
        return _bad(task, err.reason, str(err))
    except DiskError:
        raise
    except UserError as err:
        return _bad(task, "unusable", str(err))
    except OSError as err:
        return _bad(task, "unreadable", str(err))
    except Exception as err:
        if isinstance(err, RuntimeError) and "Failed to allocate" in str(err):
            raise MemoryError(str(err)) from err  # how Warp says it
        return _bad(task, "unexpected_error", f"{type(err).__name__}: {err}")
    write_atomically(work_file(work, task.asset.source), b"".join(pictures), "views")
    info = {"views": [[v.size, v.sha256, *camera_row(v.camera)] for v in views]}
    return Outcome(task.asset.source, [], task.sha256, flags=painted.flags, info=info)


def painted_asset(asset: Asset) -> PaintedMesh:
    """The asset with its colours in the unit frame; neutral if it does not know them."""
    if isinstance(asset, PaintedAsset):
        return asset.paint()
    mesh = asset.load().mesh
    return in_unit_frame(plain(mesh), mesh)


def _photographed(
    painted: PaintedMesh, digest: str, params: ViewParams
) -> tuple[list[bytes], list[StoredView]]:
    corners = painted.vertices[painted.faces].reshape(-1, 3)
    sides = corners.max(axis=0) - corners.min(axis=0)
    studio = Studio(painted)
    pictures: list[bytes] = []
    views: list[StoredView] = []
    offset = 0
    for number, camera in enumerate(cameras(params.law, digest, params.count, sides)):
        light = light_of(digest, number, camera)
        content = encoded(studio.photograph(camera, light, params.pixels, params.supersample))
        pictures.append(content)
        views.append(StoredView(offset, len(content), hashlib.sha256(content).hexdigest(), camera))
        offset += len(content)
    return pictures, views


def encoded(rgba: NDArray[np.uint8]) -> bytes:
    """A picture as lossless WebP."""
    content = io.BytesIO()
    Image.fromarray(rgba).save(content, "WEBP", lossless=True, exact=True, method=2, quality=50)
    return content.getvalue()


def _bad(task: ViewTask, reason: str, message: str) -> Outcome:
    line = " ".join(message.split())[:500]
    return Outcome(task.asset.source, [], task.sha256, status="reject", reason=reason, message=line)
