"""Licences go by many names; this gives the Creative Commons ones a single short one.

`by`, `CC BY 4.0`, `Creative Commons - Attribution` and a link to creativecommons.org all mean
CC-BY. Versions are dropped: they make no difference to what may be selected. Any other licence is
compared as it is written, without regard to case.
"""

from __future__ import annotations

import re

_WORDS = (  # longest first: "non-commercial" must not be read as "commercial"
    ("noncommercial", "NC"),
    ("noderivatives", "ND"),
    ("noderivs", "ND"),
    ("sharealike", "SA"),
    ("attribution", "BY"),
)
_ORDER = ("BY", "NC", "ND", "SA")
_ZERO = ("cc0", "creativecommonszero", "publicdomaindedication", "publicdomainzero", "zero10")
_SHORT = re.compile(r"^(cc)?[ -]*(by([ -]*(nc|nd|sa))*)([ -]*v?\d(\.\d)?)?([ -]*international)?$")
_LINK = re.compile(r"creativecommons\.org/(licenses|publicdomain)/([a-z-]+)")


def canonical(licence: str) -> str:
    """The name under which licences are compared, for example CC-BY-NC-SA, CC0 or `mit license`."""
    text = " ".join(licence.casefold().replace("_", "-").split())
    link = _LINK.search(text)
    if link is not None:
        text = "cc0" if link.group(1) == "publicdomain" else link.group(2)
    short = _SHORT.match(text)
    if short is not None:
        parts = set(re.findall(r"by|nc|nd|sa", short.group(2)))
        return "-".join(["CC", *(p for p in _ORDER if p.casefold() in parts)])
    squeezed = re.sub(r"[^a-z0-9]", "", text)
    if any(zero in squeezed for zero in _ZERO):
        return "CC0"
    if squeezed.startswith(("creativecommons", "cc")):
        found = {name for word, name in _WORDS if word in squeezed}
        if "BY" in found:
            return "-".join(["CC", *(p for p in _ORDER if p in found)])
    return text
