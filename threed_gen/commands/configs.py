"""Finding a config: as the path says, or among those that come with the project."""

from __future__ import annotations

import difflib
from pathlib import Path

import threed_gen
from threed_gen.errors import UserError

SHIPPED = Path(threed_gen.__file__).resolve().parent.parent / "configs"


def find_config(text: str) -> Path:
    """`text` as a path; else `configs/ss_vae/tiny.yaml` also works outside the repository.

    Raises:
        UserError: there is no such file; names the closest that exists.
    """
    path = Path(text)
    if path.is_file():
        return path
    shipped = SHIPPED.parent / path
    if not path.is_absolute() and shipped.is_file():
        return shipped
    known = sorted(str(p.relative_to(SHIPPED.parent)) for p in SHIPPED.rglob("*.yaml"))
    close = difflib.get_close_matches(text, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known) or 'none'}"
    raise UserError(f"{text}: no such config file ({hint})")
