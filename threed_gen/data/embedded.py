"""The data that a config names; without a name procedural shapes, prepared when first needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from threed_gen.data.config import DataConfig
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.staging.fetch import is_url

if TYPE_CHECKING:  # only those who ask for views need the renderer
    from threed_gen.data.views.params import ViewParams


def ensure_prepared(
    config: DataConfig, root: Path, workers: int = 1, views: ViewParams | None = None
) -> str:
    """The folder, or the URL, of the prepared samples that `config` asks for.

    `data.path` if it is given; else the procedural shapes, prepared into a folder below `root`
    that is named for its parameters. Prepares once; later calls find it done. With `views`, the
    procedural shapes get pictures as well; a folder that was given is left as it is.
    """
    if config.path is not None:
        return config.path
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
    return str(out)


def open_prepared(config: DataConfig, path: Path | str) -> SDFDataset:
    """The samples at `path`, read as `config` says."""
    return SDFDataset(path, config.tau, config.filter, remote=config.remote, stage=config.stage)


def open_if_at_hand(config: DataConfig) -> SDFDataset | None:
    """The samples at `data.path`; None where there is nothing yet: the run itself prepares them."""
    path = config.path
    if path is None or not (is_url(path) or Path(path).is_dir()):
        return None
    return open_prepared(config, path)
