"""One line for each size that the other side has no way to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from threed_gen.errors import UserError


def refuse_unless(source: str, sizes: Mapping[str, tuple[Any, ...]]) -> None:
    """sizes: name -> (the value it has, the values that can be converted).

    Raises:
        UserError: naming every one that has another value.
    """
    wrong = [
        f"{name} is {have!r}, only {' or '.join(map(repr, allowed))} can be converted"
        for name, (have, *allowed) in sizes.items()
        if have not in allowed
    ]
    if wrong:
        raise UserError(f"{source}: {'; '.join(wrong)}")
