"""What a preflight is asked to look at, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher.preflight.finding import CHECKS, Finding


@dataclass(frozen=True)
class Settings:
    """What all nodes are told.

    Attributes:
        run: the run directory; it need not be there yet.
        data: the prepared data, or None.
        gpus: how many on each node; None: nobody said.
        environment: variables of the site, which ranks will have too.
    """

    run: Path
    data: Path | None = None
    gpus: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run directory, or the nearest folder above it that is there."""
        path = self.run.absolute()
        while not path.is_dir() and path != path.parent:
            path = path.parent
        return path


@dataclass
class Result:
    """What was found, by node in the nodes' order, and how long it took."""

    found: dict[str, list[Finding]]
    seconds: float

    @property
    def failures(self) -> list[tuple[str, Finding]]:
        """Every failure with its node, node by node, in the order of the checks."""
        return [
            (node, finding)
            for node, findings in self.found.items()
            for finding in sorted(findings, key=lambda f: CHECKS.index(f.check))
            if finding.state == "bad"
        ]
