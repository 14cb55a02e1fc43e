"""The data set that comes with the project: procedural shapes, prepared when first needed."""

from __future__ import annotations

from pathlib import Path

from threed_gen.data.config import DataConfig


def ensure_prepared(config: DataConfig, root: Path, workers: int = 1) -> Path:
    """The folder of prepared samples that `config` asks for.

    `data.path` if it is given; else the procedural shapes, prepared into a folder below `root`
    that is named for its parameters. Prepares once; later calls find it done.
    """
    if config.path is not None:
        return Path(config.path)
    # Training on shards that are there already needs none of the geometry libraries.
    from threed_gen.data.prepare import prepare
    from threed_gen.data.sources import ProceduralSource

    grids = "-".join(map(str, config.resolutions))
    tau = "" if config.tau is None else f"_tau{config.tau:g}"
    shapes = config.procedural
    out = root / f"procedural_{shapes.count}_seed{shapes.seed}_r{grids}{tau}"
    source = ProceduralSource(shapes.count, shapes.seed)
    prepare(source, out, config.resolutions, tau=config.tau, workers=workers)
    return out
