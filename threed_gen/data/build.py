"""One asset becomes its payloads: the part of `prepare` that runs in the worker processes.

Payloads go to OUT/work, each whole or absent. What a mesh is rejected for is an outcome like any
other; only a failing disk ends the run.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from threed_gen.data.ledger import BuiltGrid, Outcome
from threed_gen.data.payload import Values, encode_payload
from threed_gen.data.sources import Asset
from threed_gen.errors import DiskError, UserError
from threed_gen.files import write_atomically
from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.narrow_band import build_sparse_sdf

BUILDER = 1  # raised when the same mesh would give other payloads than before
SHARP_ANGLE_DEGREES = 30.0


@dataclass(frozen=True)
class BuildParams:
    """What decides the content of a payload, apart from the mesh."""

    tau: dict[int, float]  # by resolution, unit-cube units
    values: Values
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
    """Load, measure, encode and store one asset at every resolution."""
    stamp: list[int] = []
    sha256 = ""
    try:
        try:
            stamp, sha256 = asset.stamp(), asset.sha256()
            mesh = asset.load()
        except OSError as err:
            return rejected(asset, stamp, sha256, "unreadable", str(err))
        grids = {}
        for resolution, tau in sorted(params.tau.items()):
            sdf = build_sparse_sdf(mesh, resolution, tau, params.sharp_angle_degrees)
            if not sdf.inside.any():
                return rejected(
                    asset, stamp, sha256, "too_thin",
                    f"no voxel lies inside at resolution {resolution}: every wall is thinner than "
                    "a voxel; prepare it at a higher resolution",
                )  # fmt: skip
            blob = encode_payload(sdf, params.values)
            write_atomically(work_file(work, asset.source, resolution), blob, "a sample")
            digest = hashlib.sha256(blob).hexdigest()
            grids[resolution] = BuiltGrid(len(blob), digest, sdf.num_bricks, sdf.num_voxels, tau)
    except (DiskError, OSError):
        raise  # OUT cannot be written: that is no fault of the mesh
    except MeshError as err:
        return rejected(asset, stamp, sha256, err.reason, str(err))
    except UserError as err:
        return rejected(asset, stamp, sha256, "unusable", str(err))
    except MemoryError:
        return rejected(asset, stamp, sha256, "out_of_memory", "not enough memory for this mesh")
    except Exception as err:  # noqa: BLE001  one odd mesh among thousands must not end the run
        return rejected(asset, stamp, sha256, "failed", f"{type(err).__name__}: {err}")
    return Outcome(asset.source, stamp, sha256, grids)


def rejected(asset: Asset, stamp: list[int], sha256: str, reason: str, message: str) -> Outcome:
    """The outcome of an asset that cannot be used; the message is kept to one line."""
    return Outcome(
        asset.source, stamp, sha256, reason=reason, message=" ".join(message.split())[:500]
    )
