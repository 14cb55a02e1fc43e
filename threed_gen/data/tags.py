"""Tags: what a table or a file says of an asset, as plain values (a caption, a score, a flag)."""

from __future__ import annotations

Tag = str | float | None  # a flag is 1.0 or 0.0, or a word


def is_set(tag: Tag) -> bool:
    """Whether a flag is up; one that is not there is not."""
    if isinstance(tag, str):
        return tag.strip().casefold() in ("true", "yes", "y", "t")
    return tag is not None and tag != 0
