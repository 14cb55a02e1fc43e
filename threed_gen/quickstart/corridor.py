"""The whole corridor once, unattended: meshes, shards, a trained SS-VAE, its verdict, the page.

Each step looks first whether its result is already there and whole, so a stopped quickstart goes
on where it was and a finished one has nothing to do. The settings it was made from are remembered
in `quickstart.json`; when they change (other meshes, an edited config), the earlier result is moved
aside, never mixed or overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import threed_gen
from threed_gen.config import read_tree
from threed_gen.console import say
from threed_gen.errors import UserError, disk_errors
from threed_gen.files import write_json

SHAPES = 12
SEED = 0
PACKAGE = Path(threed_gen.__file__).resolve().parent
CONFIG = PACKAGE.parent / "configs" / "ss_vae" / "tiny.yaml"
STATE = "quickstart.json"


@dataclass(frozen=True)
class Step:
    """One stretch of the corridor: what it is, whether it is done, how to do it."""

    title: str
    about: str  # how long it takes on two CPU cores
    is_done: Callable[[], bool]
    do: Callable[[], None]


class Quickstart:
    """The five steps over one directory."""

    def __init__(self, out: Path, meshes: Path | None) -> None:
        self.out = out
        self.own_meshes = meshes
        self.meshes = meshes if meshes is not None else out / "meshes"
        self.data = out / "data"
        self.run = out / "ss_vae"

    def steps(self) -> list[Step]:
        """In order; a step counts on all before it."""
        made = f"{SHAPES} procedural shapes" if self.own_meshes is None else str(self.own_meshes)
        return [
            Step(f"meshes    {made}", "seconds", self.meshes_done, self.make_meshes),
            Step("prepare   meshes → shards", "seconds", self.data_done, self.prepare),
            Step("train     a Sparse SDF VAE", "5 minutes", self.trained, self.train),
            Step("evaluate  every shape, rebuilt", "half a minute", self.judged, self.evaluate),
            Step("report    one page, offline", "half a minute", self.reported, self.report),
        ]

    def enter(self) -> None:
        """Make or reopen the directory; move an earlier result of other settings aside."""
        fingerprint = self.fingerprint()
        state = self.out / STATE
        if state.is_file():
            if read_json(state).get("fingerprint") == fingerprint:
                return
            aside = free_name(self.out)
            self.out.rename(aside)
            say(f"the meshes or settings have changed: the earlier result is kept in {aside}")
        elif self.out.is_dir() and any(self.out.iterdir()):
            raise UserError(f"{self.out}: holds something else; choose another --out")
        with disk_errors(self.out, "the quickstart"):
            self.out.mkdir(parents=True, exist_ok=True)
        write_json(state, {"fingerprint": fingerprint})

    def fingerprint(self) -> str:
        """Of everything that decides the result: the config and the meshes."""
        digest = hashlib.sha256(json.dumps([read_tree(CONFIG), SHAPES, SEED]).encode())
        if self.own_meshes is not None:
            if not self.own_meshes.is_dir():
                raise UserError(f"{self.own_meshes}: no such folder of meshes")
            for path in sorted(p for p in self.own_meshes.rglob("*") if p.is_file()):
                digest.update(str(path.relative_to(self.own_meshes)).encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def meshes_done(self) -> bool:
        if self.own_meshes is not None:
            return True
        recorded = read_json(self.meshes / "made.json")
        return len(recorded) == SHAPES and all(
            (self.meshes / name).is_file() and (self.meshes / name).stat().st_size == size
            for name, size in recorded.items()
        )

    def make_meshes(self) -> None:
        from threed_gen.data.procedural.families import make_mesh
        from threed_gen.geometry.mesh_io import save_mesh

        self.meshes.mkdir(exist_ok=True)
        sizes = {}
        for index in range(SHAPES):
            name, mesh = make_mesh(index, SEED)
            path = self.meshes / f"{name}.ply"
            save_mesh(mesh, path)
            sizes[path.name] = path.stat().st_size
        write_json(self.meshes / "made.json", sizes)

    def data_done(self) -> bool:
        from threed_gen.data.dataset import SDFDataset

        try:
            return len(SDFDataset(self.data)) > 0  # opening it looks at every shard
        except UserError:
            return False

    def prepare(self) -> None:
        from threed_gen.data.prepare import prepare
        from threed_gen.data.sources import FolderSource

        section = read_tree(CONFIG).get("data", {})
        prepare(
            FolderSource(self.meshes),
            self.data,
            section["resolutions"],
            tau=section.get("tau"),
            workers=cores(),
        )

    def trained(self) -> bool:
        return (self.run / "finished.json").is_file()

    def train(self) -> None:
        """In a child process: OpenMP reads its settings when torch loads."""
        if (self.run / "config.yaml").is_file():
            arguments = ["--resume", str(self.run), "--fresh"]
        else:
            path = json.dumps(str(self.data.resolve()))  # quoted: the value is read as YAML
            arguments = ["--config", str(CONFIG), "--out", str(self.run), f"data.path={path}"]
        command = [sys.executable, str(PACKAGE / "train.py"), *arguments]
        environment = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", **os.environ}
        with subprocess.Popen(command, env=environment) as child:
            try:
                code = child.wait()
            except KeyboardInterrupt:
                child.wait()  # Ctrl-C reached it too; let it finish its files
                raise
        if code != 0:
            error = UserError(f"{self.run}: training ended with code {code}; its reason is above")
            error.exit_code = code if code > 0 else 1
            raise error

    def judged(self) -> bool:
        verdict = read_json(self.run / "evaluation.json")
        return bool(verdict) and verdict.get("step") == self.final_step()

    def evaluate(self) -> None:
        from threed_gen.training.validate import evaluate_run

        evaluate_run(self.run, meshes=self.meshes, quiet=True)

    def reported(self) -> bool:
        page, verdict = self.run / "report.html", self.run / "evaluation.json"
        return page.is_file() and page.stat().st_mtime >= verdict.stat().st_mtime

    def report(self) -> None:
        from threed_gen.report.page import write_report

        write_report(self.run)

    def final_step(self) -> Any:
        return read_json(self.run / "finished.json").get("step")


def quickstart(out: Path, meshes: Path | None) -> int:
    """Run what is not done yet, then show the verdict. Returns how many steps were run."""
    from threed_gen.evaluation.evaluate import evaluation_table

    way = Quickstart(out, meshes)
    way.enter()
    steps = way.steps()
    say(f"quickstart in {out}: about six minutes on two CPU cores, once")
    ran = 0
    for number, step in enumerate(steps, start=1):
        label = f"[{number}/{len(steps)}] {step.title}"
        if step.is_done():
            say(f"{label}: already there")
            continue
        ran += 1
        say(f"{label} … ({step.about})")
        start = time.monotonic()
        step.do()
        if not step.is_done():
            raise RuntimeError(f"{step.title}: ended without its result")
        say(f"{label}: done in {time.monotonic() - start:.0f} s")
    if ran == 0:
        say("everything was already there; nothing was redone")
    print(evaluation_table(read_json(way.run / "evaluation.json")))
    print(f"\nOpen the page in a browser: {(way.run / 'report.html').resolve()}")
    return ran


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one when the file is missing or torn."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def free_name(path: Path) -> Path:
    """`path.1`, `path.2`, …: the first that does not exist."""
    number = 1
    while path.with_name(f"{path.name}.{number}").exists():
        number += 1
    return path.with_name(f"{path.name}.{number}")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
