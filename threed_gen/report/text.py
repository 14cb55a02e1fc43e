"""Small pieces of HTML text that several parts of the page share."""

from __future__ import annotations

import json
import math
from typing import Any


def number(value: object, digits: int) -> str:
    """A metric for people; "–" where it is undefined or missing."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}"


def plain(text: object, most: int = 160) -> str:
    """Text from a file as one harmless line: odd letters as their codes, a long middle left out."""
    line = str(text)
    if len(line) > most:
        line = f"{line[: most // 2]} … {line[-(most // 2) :]}"
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in line
    )


def json_script(value: Any) -> str:
    """Data for page scripts; no text in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'
