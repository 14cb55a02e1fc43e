"""What is special about one cluster, in one file: `cluster.yaml`.

Account, partition, container, the lines that set up a shell, the network interface: whatever a
lab's machines want and no other's. Nothing of it stands in code. Every key has a default, so a
cluster without peculiarities needs no file. An unknown key is an error with a suggestion.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from launcher.errors import LaunchError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What this file may not say, as the launch itself decides it.
_OURS = ("--nodes", "--ntasks", "--gpus", "--output", "--error", "--array", "--job-name", "--wait")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Container(_Section):
    """The image in which ranks run."""

    image: str  # a .sif file (apptainer), or what pyxis understands: a .sqsh file, a registry's URL
    runtime: Literal["apptainer", "pyxis"] = "apptainer"
    mounts: list[str] = []  # FROM or FROM:TO, folders that ranks need beside the current one


class Site(_Section):
    """One cluster."""

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None  # node features
    exclude: list[str] = []  # nodes that shall not be used
    time: str | None = None  # limit of a job, as Slurm writes it: 1-12:00:00; None: the partition's
    cpus_per_gpu: int = Field(default=8, ge=1)  # cores of a rank, also where there is no GPU
    ask_for_gpus: bool = True  # false: Slurm does not count GPUs here, or there are none
    gres: str | None = None  # kind of GPU: `a100` gives --gpus-per-node=a100:8
    memory: str | None = None  # of a node: 0 is all of it; None: the partition's default
    options: list[str] = []  # further #SBATCH options, for example --mail-type=END

    python: str | None = None  # the interpreter on the nodes; None: the one that launches
    preflight: bool = True  # look at the nodes first; a job does not start where one is unfit
    setup: list[str] = []  # shell lines before the ranks start: module load …
    environment: dict[str, str] = {}  # variables of every rank: NCCL_DEBUG: WARN
    interface: str | None = None  # network between nodes: ib0; gloo, NCCL and Open MPI keep to it
    container: Container | None = None

    @field_validator("environment", mode="before")
    @classmethod
    def _numbers_are_words(cls, value: Any) -> Any:
        """`NCCL_IB_TIMEOUT: 22` is meant as text."""
        if not isinstance(value, dict):
            return value
        plain = (int, float)
        return {
            k: str(v) if isinstance(v, plain) and not isinstance(v, bool) else v
            for k, v in value.items()
        }

    @model_validator(mode="after")
    def _can_be_written(self) -> Site:
        for name, value in self.environment.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"environment: '{name}' is no name of a variable")
            if "\n" in value:
                raise ValueError(f"environment.{name}: must be one line")
        for option in self.options:
            if not option.startswith("--") or "\n" in option:
                raise ValueError(f"options: '{option}' should look like --mail-type=END")
            if option.startswith(_OURS):
                raise ValueError(f"options: '{option}' is decided by the launch itself")
        words = (self.account, self.partition, self.qos, self.constraint, self.time, self.gres,
                 self.memory, *self.exclude)  # fmt: skip
        for word in words:
            if word is not None and (not word or re.search(r"\s", word)):
                raise ValueError(f"'{word}' must be one word")
        return self

    @property
    def variables(self) -> dict[str, str]:
        """Everything that ranks shall find in their environment."""
        if self.interface is None:
            return dict(self.environment)
        names = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
        return {**dict.fromkeys(names, self.interface), **self.environment}


def load_site(path: Path | None) -> Site:
    """Read `path`, or take the defaults when there is none.

    Raises:
        LaunchError: the file is missing, is no YAML, or has a key or value that makes no sense.
    """
    if path is None:
        return Site()
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise LaunchError(f"{path}: {err.strerror}; docs/launching.md shows an example") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise LaunchError(f"{path}: not valid YAML: {' '.join(str(err).split())}") from err
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise LaunchError(f"{path}: expected 'key: value' lines, for example 'partition: gpu'")
    try:
        return Site.model_validate(tree)
    except ValidationError as err:
        raise LaunchError(f"{path}: " + "; ".join(map(_explain, err.errors()))) from err


def _explain(detail: Mapping[str, Any]) -> str:
    words = [str(word) for word in detail["loc"]]
    key = ".".join(words)
    if detail["type"] == "extra_forbidden":
        section: type[BaseModel] = Container if words[0] == "container" else Site
        close = difflib.get_close_matches(words[-1], section.model_fields, n=1, cutoff=0.5)
        known = ", ".join(section.model_fields)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {known}"
        return f"unknown key '{key}', {hint}"
    if detail["type"] == "missing":
        return f"key '{key}' is missing"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return message if not key else f"'{key}': {message}"
    quote = " (put it in quotes)" if detail["type"] == "string_type" else ""
    return f"'{key}': {message}{quote}, got {detail['input']!r}"
