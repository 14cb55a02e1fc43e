"""One asset becomes its payloads: the part of `prepare` that runs in the worker processes.

Payloads go to OUT/work, each whole or absent. What a mesh is rejected for is an outcome like any
other; only a failing disk ends the run.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from threed_gen.data.ledger import BuiltGrid, Outcome
from threed_gen.data.payload import Values, encode_payload
from threed_gen.data.sources import Asset, TryAgainError
from threed_gen.data.usage import Meter
from threed_gen.data.workers import Lost
from threed_gen.errors import DiskError, UserError
from threed_gen.files import write_atomically
from threed_gen.geometry.fidelity import Fidelity, fidelity
from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.mesh_io import LoadedMesh
from threed_gen.geometry.narrow_band import measure
from threed_gen.geometry.repair import repair
from threed_gen.geometry.signs import SignReport
from threed_gen.geometry.surface import OpenSurface, RepairReport

BUILDER = 2  # raised when the same mesh would give other payloads than before
SHARP_ANGLE_DEGREES = 30.0
CAP_EXTENT = 0.05
POINTS_PER_BRICK = 8  # at which a grid is compared with its source …
POINTS = (1_000, 20_000)  # … but at least and at most so many


@dataclass(frozen=True)
class BuildParams:
    """What decides the content of a payload, apart from the mesh."""

    tau: dict[int, float]  # by resolution, unit-cube units
    values: Values
    open_surface: OpenSurface = "shell"
    cap_extent: float = CAP_EXTENT  # openings up to this part of the longest side are capped
    sharp_angle_degrees: float = SHARP_ANGLE_DEGREES
    builder: int = BUILDER

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "tau": {str(r): tau for r, tau in sorted(self.tau.items())}}


def work_file(work: Path, source: str, resolution: int) -> Path:
    """Where the payload of an asset waits to be packed."""
    name = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
    return work / name[:2] / f"{name}.r{resolution}.sdf.zst"


def build_asset(asset: Asset, work: Path, params: BuildParams) -> Outcome:
    """Load, repair, measure, encode and store one asset at every resolution.

    A MemoryError is passed on: what is too large for one process is for the caller to judge.
    """
    meter = Meter()
    outcome = _build(asset, work, params)
    return replace(outcome, seconds=meter.seconds, peak_mb=meter.peak_mb)


def lost_asset(asset: Asset, why: Lost) -> Outcome:
    """The outcome of an asset that its process did not survive, or that was stopped."""
    lost = _outcome(asset, stamp_of(asset), "", why.reason, why.message)
    return replace(lost, status="failed", seconds=round(why.seconds, 3), peak_mb=why.peak_mb)


def stamp_of(asset: Asset) -> list[int]:
    """The asset's stamp; empty when it has none, because its file is gone."""
    try:
        return asset.stamp()
    except (OSError, UserError):
        return []


def _build(asset: Asset, work: Path, params: BuildParams) -> Outcome:
    stamp, sha256 = stamp_of(asset), ""
    try:
        try:
            sha256 = asset.sha256()
            loaded = asset.load()
        except OSError as err:
            return _outcome(asset, stamp, sha256, "unreadable", str(err))
        grids, info = _grids(asset, loaded, work, params)
    except (DiskError, OSError, MemoryError):
        raise  # OUT cannot be written: that is no fault of the mesh
    except TryAgainError as err:
        return replace(_outcome(asset, stamp, sha256, err.reason, str(err)), status="failed")
    except MeshError as err:
        return _outcome(asset, stamp, sha256, err.reason, str(err))
    except UserError as err:
        return _outcome(asset, stamp, sha256, "unusable", str(err))
    except Exception as err:
        if isinstance(err, RuntimeError) and "Failed to allocate" in str(err):
            raise MemoryError(str(err)) from err  # how Warp says it
        text = f"{type(err).__name__}: {err}"
        return _outcome(asset, stamp, sha256, "unexpected_error", text)
    return Outcome(asset.source, stamp, sha256, grids, flags=loaded.flags, info=info)


def _grids(
    asset: Asset, loaded: LoadedMesh, work: Path, params: BuildParams
) -> tuple[dict[int, BuiltGrid], dict[str, Any]]:
    """The stored payload of every resolution, and what was measured on the way."""
    surface = repair(loaded.mesh, params.open_surface, params.cap_extent)
    grids: dict[int, BuiltGrid] = {}
    measured: dict[str, Any] = {}
    for resolution, tau in sorted(params.tau.items()):
        sdf, signs = measure(surface, resolution, tau, params.sharp_angle_degrees)
        if not sdf.inside.any():
            raise MeshError(
                f"no voxel lies inside at resolution {resolution}: every wall is thinner than "
                "a voxel; prepare it at a higher resolution",
                "too_thin",
            )
        blob = encode_payload(sdf, params.values)
        write_atomically(work_file(work, asset.source, resolution), blob, "a sample")
        digest = hashlib.sha256(blob).hexdigest()
        grids[resolution] = BuiltGrid(len(blob), digest, sdf.num_bricks, sdf.num_voxels, tau)
        points = min(max(sdf.num_bricks * POINTS_PER_BRICK, POINTS[0]), POINTS[1])
        distances = fidelity(loaded.mesh, sdf, points)
        measured[str(resolution)] = {**_plain(signs), "fidelity": _plain(distances)}
    info = {
        "policy": params.open_surface,
        "faces": len(loaded.mesh.faces),
        **_plain(surface.report),
        "grids": measured,
    }
    return grids, info


def _plain(report: RepairReport | SignReport | Fidelity) -> dict[str, int | float | None]:
    """The numbers of a report for JSON: six digits say enough, and what is no number is null."""
    numbers = {}
    for name, value in asdict(report).items():
        if isinstance(value, float):
            value = float(f"{value:.6g}") if math.isfinite(value) else None
        numbers[name] = value
    return numbers


def _outcome(asset: Asset, stamp: list[int], sha256: str, reason: str, message: str) -> Outcome:
    """The outcome of an asset that cannot be used; the message is kept to one line."""
    line = " ".join(message.split())[:500]
    return Outcome(asset.source, stamp, sha256, status="reject", reason=reason, message=line)
