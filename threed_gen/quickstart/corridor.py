"""The steps of the quickstart, over one directory.

Everything but the trainings is a command that a person could type; it is shown before it runs. The
settings that a quickstart was made from are remembered in `quickstart.json`; when they change
(other meshes, an edited config), the earlier result is moved aside, never mixed or overwritten.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from functools import cached_property
from pathlib import Path
from typing import Any

import threed_gen
from threed_gen.config import read_tree, validate
from threed_gen.console import say
from threed_gen.data.config import ProceduralConfig
from threed_gen.errors import UserError, disk_errors
from threed_gen.files import write_atomically, write_json
from threed_gen.machine import cores
from threed_gen.quickstart.children import Training, train_side_by_side
from threed_gen.quickstart.steps import Step, free_name, is_newer, read_json, walk

SEED = 0
TASKS = ("ss_vae", "structure_dit", "ss_dit")
CONFIGS = Path(threed_gen.__file__).resolve().parent.parent / "configs"
STATE = "quickstart.json"
MOST_GENERATED = 8  # meshes made from pictures, of a person's own hundred
POINTS = "20000"  # per surface; measuring takes seconds instead of minutes


class Quickstart:
    """Where everything lies, and how it comes to be."""

    def __init__(self, out: Path, meshes: Path | None, configs: Path = CONFIGS) -> None:
        self.out = out
        self.own_meshes = meshes
        self.meshes = meshes if meshes is not None else out / "meshes"
        self.data, self.latents = out / "data", out / "latents"
        self.images, self.generated = out / "images", out / "generated"
        self.evaluated = out / "generated.evaluated"
        self.mesh, self.page = out / "generated.glb", out / "report.html"
        self.configs = {task: configs / task / "tiny.yaml" for task in TASKS}

    def run_of(self, task: str) -> Path:
        """The run directory of a task."""
        return self.out / task

    @cached_property
    def procedural(self) -> ProceduralConfig:
        """How many shapes there are, and which pictures of each."""
        tree = read_tree(self.configs["ss_dit"])["data"]["procedural"]
        return validate(ProceduralConfig, tree, str(self.configs["ss_dit"]))

    def steps(self) -> list[Step]:
        """In order; a step counts on all before it."""
        count, views = self.procedural.count, self.procedural.views
        made = f"{count} procedural shapes" if self.own_meshes is None else str(self.own_meshes)
        return [
            Step(f"meshes    {made}", "seconds", self.meshes_done, self.make_meshes),
            Step(f"prepare   meshes → shards, {views} pictures of each", "half a minute",
                 self.data_done, self.prepare),
            Step("train     a Sparse SDF VAE, and beside it the structure stage", "5 minutes",
                 self.autoencoded, self.train_first),
            Step("encode    shapes → latents", "seconds", self.encoded, self.encode),
            Step("train     an SS-DiT, from pictures to latents", "5 minutes",
                 self.trained, self.train_second),
            Step("generate  from pictures that training never saw", "seconds",
                 self.made, self.generate),
            Step("evaluate  what was rebuilt, and what was generated", "half a minute",
                 self.judged, self.evaluate),
            Step("report    pages to look at, offline", "half a minute",
                 self.reported, self.report),
        ]  # fmt: skip

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
        """Of everything that decides the result: the configs and the meshes."""
        trees = [read_tree(config) for config in self.configs.values()]
        digest = hashlib.sha256(json.dumps([trees, SEED]).encode())
        if self.own_meshes is not None:
            if not self.own_meshes.is_dir():
                raise UserError(f"{self.own_meshes}: no such folder of meshes")
            for path in sorted(p for p in self.own_meshes.rglob("*") if p.is_file()):
                digest.update(str(path.relative_to(self.own_meshes)).encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def command(self, *words: str | Path) -> None:
        """Run one of our own commands, and show it as a person would type it."""
        from threed_gen import cli

        typed = [str(word) for word in words]
        say(f"  $ threed-gen {shlex.join(typed)}")
        code = cli.run(cli.parse(typed))
        assert code == 0, f"threed-gen {typed[0]} ended with code {code} and told no reason"

    # --- meshes and data -------------------------------------------------------------------------

    def meshes_done(self) -> bool:
        if self.own_meshes is not None:
            return True
        recorded = read_json(self.meshes / "made.json")
        return len(recorded) == self.procedural.count and all(
            (self.meshes / name).is_file() and (self.meshes / name).stat().st_size == size
            for name, size in recorded.items()
        )

    def make_meshes(self) -> None:
        from threed_gen.data.procedural.families import make_mesh
        from threed_gen.geometry.mesh_io import save_mesh

        self.meshes.mkdir(exist_ok=True)
        sizes = {}
        for index in range(self.procedural.count):
            name, mesh = make_mesh(index, SEED)
            path = self.meshes / f"{name}.ply"
            save_mesh(mesh, path)
            sizes[path.name] = path.stat().st_size
        write_json(self.meshes / "made.json", sizes)

    def data_done(self) -> bool:
        from threed_gen.data.dataset import SDFDataset
        from threed_gen.data.views.view_set import ViewSet

        try:  # opening looks at every shard, and at the table of the pictures
            return len(SDFDataset(self.data)) > 0 and len(ViewSet(self.data).samples) > 0
        except UserError:
            return False

    def prepare(self) -> None:
        views = self.procedural
        self.command(
            *self.preparing(), "--views", str(views.views), "--view-law", views.view_law,
            "--view-size", str(views.view_size),
        )  # fmt: skip

    def preparing(self) -> list[str | Path]:
        """The command that makes the shards, without pictures."""
        resolutions = read_tree(self.configs["ss_vae"])["data"]["resolutions"]
        return ["prepare", self.meshes, self.data, "--resolution", *map(str, resolutions),
                "--workers", str(cores())]  # fmt: skip

    # --- the three models ------------------------------------------------------------------------

    def training(self, task: str) -> Training:
        """A task's run over this data, with what it takes from the runs before it."""
        paths = {"data.path": self.data}
        if task == "ss_dit":
            paths |= {
                "latents.path": self.latents,
                "latents.run": self.run_of("ss_vae"),
                "structure.run": self.run_of("structure_dit"),
            }
        # Quoted: the values are read as YAML.
        overrides = (f"{key}={json.dumps(str(path.resolve()))}" for key, path in paths.items())
        return Training(self.configs[task], self.run_of(task), tuple(overrides))

    def autoencoded(self) -> bool:
        return all(self.training(task).is_finished for task in ("ss_vae", "structure_dit"))

    def train_first(self) -> None:
        train_side_by_side([self.training("ss_vae"), self.training("structure_dit")])

    def encoded(self) -> bool:
        from threed_gen.data.latents.index import INDEX_NAME

        return (self.latents / INDEX_NAME).is_file()

    def encode(self) -> None:
        self.command("encode", self.run_of("ss_vae"), self.data, "--out", self.latents)

    def trained(self) -> bool:
        return self.training("ss_dit").is_finished

    def train_second(self) -> None:
        train_side_by_side([self.training("ss_dit")])

    # --- what they make --------------------------------------------------------------------------

    def made(self) -> bool:
        trained = self.run_of("ss_dit") / "finished.json"
        meshes = [self.generated / f"{image.stem}.glb" for image in self.images.glob("*.png")]
        return bool(meshes) and all(is_newer(mesh, trained) for mesh in [*meshes, self.mesh])

    def generate(self) -> None:
        """From the first view of each shape, which the configs keep from training."""
        from PIL import Image

        from threed_gen.data.dataset import SDFDataset
        from threed_gen.data.views.view_set import ViewSet

        views = ViewSet(self.data)
        seen = set(views.samples)
        names = [entry.id for entry in SDFDataset(self.data).index.samples if entry.id in seen]
        self.images.mkdir(exist_ok=True)
        images = [self.images / f"{name}.png" for name in names[:MOST_GENERATED]]
        for name, image in zip(names, images, strict=False):
            Image.fromarray(views.load(name, 0).rgba).save(image)
        self.command(
            "generate", *images, "--run", self.run_of("ss_dit"), "--out", f"{self.generated}/",
            "--batch", str(len(images)),
        )  # fmt: skip
        first = self.generated / f"{images[0].stem}.glb"
        write_atomically(self.mesh, first.read_bytes(), "the generated mesh")

    def judged(self) -> bool:
        verdict = read_json(self.run_of("ss_vae") / "evaluation.json")
        finished = read_json(self.run_of("ss_vae") / "finished.json")
        return (
            bool(verdict)
            and verdict.get("step") == finished.get("step")
            and is_newer(self.evaluated / "summary.json", self.mesh)
        )

    def evaluate(self) -> None:
        from threed_gen.training.validate import evaluate_run

        evaluate_run(self.run_of("ss_vae"), meshes=self.meshes, quiet=True)
        self.command(
            "evaluate", self.generated, "--against", self.data, "--align", "unit", "--nearest",
            "--points", POINTS, "--paper-points", POINTS, "--out", self.evaluated,
        )  # fmt: skip

    def reported(self) -> bool:
        return is_newer(self.page, self.evaluated / "summary.json") and all(
            (self.run_of(task) / "report.html").is_file() for task in TASKS
        )

    def report(self) -> None:
        from threed_gen.report.generated import write_generated
        from threed_gen.report.page import write_report

        for task in TASKS:
            write_report(self.run_of(task))
        write_generated(self.page, self.images, self.generated, self.data, TASKS)


def quickstart(out: Path, meshes: Path | None) -> int:
    """Run what is not done yet, then show the verdict. Returns how many steps were run."""
    from threed_gen.evaluation.evaluate import evaluation_table
    from threed_gen.quickstart import expected

    way = Quickstart(out, meshes)
    way.enter()
    say(f"quickstart in {out}: about eleven minutes on two CPU cores, once")
    ran = walk(way.steps())
    print("What the SS-VAE rebuilds of its shapes:")
    print(evaluation_table(read_json(way.run_of("ss_vae") / "evaluation.json")))
    print("\n" + told(read_json(way.evaluated / "summary.json")))
    if meshes is None:  # the committed curves are those of the procedural shapes
        print(expected.told(way.run_of))
    print(f"\nA mesh made from one picture: {way.mesh.resolve()}")
    print(f"Open the page in a browser:    {way.page.resolve()}")
    return ran


def told(summary: dict[str, Any]) -> str:
    """One line of what was generated."""
    nearest = summary["nearest"]
    return (
        f"Generated from pictures never seen in training: {nearest['right']} of "
        f"{nearest['of']} meshes are nearest to the shape in their picture."
    )
