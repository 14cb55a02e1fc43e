"""One hostile file: its content, what lies beside it, and what has to become of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """`expect` is "sample", or the reasons that are right, separated by blanks."""

    name: str  # of the file
    content: bytes
    expect: str
    flags: tuple[str, ...] = ()
    beside: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
