"""The data set that comes with the project: procedural shapes, prepared when first needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from threed_gen.data.config import DataConfig

if TYPE_CHECKING:  # only those who ask for views need the renderer
    from threed_gen.data.views.params import ViewParams


def ensure_prepared(
    config: DataConfig, root: Path, workers: int = 1, views: ViewParams | None = None
) -> Path:
    """The folder of prepared samples that `config` asks for.

    `data.path` if it is given; else the procedural shapes, prepared into a folder below `root`
    that is named for its parameters. Prepares once; later calls find it done. With `views`, the
    procedural shapes get pictures as well; a folder that was given is left as it is.
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
    if views is not None:
        from threed_gen.data.views.stage import prepare_views

        prepare_views(source, out, views, workers=workers)
    return out
