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


def json_script(value: Any) -> str:
    """Data for page scripts; no text in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'
