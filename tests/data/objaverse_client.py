"""The other end of objaverse_server.py: sources on it, and what became of their assets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.objaverse_server import Web
from threed_gen.data.source_kinds.asset import Asset, TryAgainError
from threed_gen.data.source_kinds.download import DownloadPolicy
from threed_gen.data.sources import SourceOptions, source_from
from threed_gen.geometry.mesh import MeshError

QUICK = DownloadPolicy(attempts=3, silence=5.0, seconds=60.0, pause=0.01)
IMPATIENT = DownloadPolicy(attempts=3, silence=0.5, seconds=60.0, pause=0.01)  # for stalls


def options(web: Web, cache: Path, **more: Any) -> SourceOptions:
    more.setdefault("policy", QUICK)
    return SourceOptions(cache=cache, objaverse_url=web.url, **more)


def by_id(text: str, options: SourceOptions) -> dict[str, Asset]:
    return {asset.id: asset for asset in source_from(text, options)}


def reason(asset: Asset) -> str:
    with pytest.raises((MeshError, TryAgainError)) as caught:
        asset.load()
    assert "\n" not in str(caught.value)
    return f"{caught.type.__name__} {caught.value.reason}"


def listing(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
