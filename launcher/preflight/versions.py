"""Versions: the same Python, libraries, driver and code on every node.

The packages' metadata are read, nothing is imported. The code is told by a digest of its sources,
so that changes which were never committed count too.
"""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path

from launcher.preflight.finding import ByNode, Finding, Verdicts, bad, facts_of, most, others

PACKAGES = ("torch", "deepspeed", "triton", "numpy", "safetensors", "mpi4py")
OWN = ("launcher", "kernels", "threed_gen")
ROOT = Path(__file__).resolve().parents[2]


def look() -> Finding:
    """Versions by name; a package that is not there is `none`."""
    facts = {"python": platform.python_version(), "code": code_digest(ROOT)}
    for name in PACKAGES:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "none"
    nccl = sorted(
        f"{found.name} {found.version}"
        for found in metadata.distributions()
        if found.name and found.name.startswith("nvidia-nccl")
    )
    facts["NCCL"] = ", ".join(nccl) or "none"
    return Finding("versions", "ok", f"torch {facts['torch']}", facts=facts)


def code_digest(root: Path) -> str:
    """Twelve hexadecimal digits that change with any source file of the packages."""
    digest = hashlib.blake2b(digest_size=6)
    for package in OWN:
        for path in sorted((root / package).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root)} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


def compare(found: ByNode) -> Verdicts:
    """One failure for each name of which a node has another version than most."""
    facts = facts_of(found, "versions")
    drivers = {node: own["driver"] for node, own in facts_of(found, "GPU").items()}
    verdicts = _odd("driver", drivers)
    for name in next(iter(facts.values()), {}):
        verdicts += _odd(name, {node: own[name] for node, own in facts.items()})
    return verdicts


def _odd(name: str, values: dict[str, str]) -> Verdicts:
    if len(set(values.values())) < 2:
        return []
    usual = most(values)
    cure = {
        "code": f"bring its copy of {ROOT} up to date (`git status` and `git log -1` there)",
        "driver": "install the same driver, or leave the node out",
    }.get(name, "install the same environment there (`make setup`)")
    return [
        (node, bad("versions", f"{name} is {own}, {others(values, usual)} {usual}: {cure}"))
        for node, own in values.items()
        if own != usual
    ]
