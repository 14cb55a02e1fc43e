"""The pictures of the README and of docs/expected, from a finished quickstart.

    python docs/draw_quickstart.py runs/quickstart

`docs/quickstart.png`: picture, truth and generated mesh of each picture that training never saw.
`docs/expected/quickstart_ss_vae.png`: every shape beside what the SS-VAE rebuilds of it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from threed_gen.data.dataset import SDFDataset
from threed_gen.geometry.mesh_io import load_mesh
from threed_gen.report.generated import picture, unit_cube
from threed_gen.report.previews import Content, PreviewShape, write_preview

DOCS = Path(__file__).resolve().parent


def rebuilt(run: Path) -> list[PreviewShape]:
    """What `evaluate` has left of the SS-VAE."""
    verdict = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    shapes = []
    for shape in verdict["shapes"]:
        pair = [load_mesh(run / "evaluation" / f"{shape['name']}_{which}.ply")
                for which in ("truth", "reconstruction")]  # fmt: skip
        panels: list[tuple[str, Content, bool]] = [
            ("truth", pair[0], True),
            ("reconstruction", pair[1], False),
        ]
        shapes.append(PreviewShape(_short(shape["name"]), panels, f"IoU {shape['iou']:.3f}"))
    return shapes


def generated(out: Path) -> list[PreviewShape]:
    """What the quickstart made of pictures."""
    dataset = SDFDataset(out / "data")
    numbers = {entry.id: number for number, entry in enumerate(dataset.index.samples)}
    shapes = []
    for path in sorted((out / "images").glob("*.png")):
        panels: list[tuple[str, Content, bool]] = [
            ("picture", picture(path), True),
            ("truth", unit_cube(dataset, numbers[path.stem]), True),
            ("generated", load_mesh(out / "generated" / f"{path.stem}.glb"), False),
        ]
        shapes.append(PreviewShape(_short(path.stem), panels))
    return shapes


def draw(shapes: Sequence[PreviewShape], step: int, path: Path) -> None:
    """One contact sheet."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "previews").mkdir()
        shutil.copy(write_preview(Path(folder), step, shapes), path)


def main(out: Path) -> None:
    """Draw both."""
    steps = {task: json.loads((out / task / "finished.json").read_text())["step"]
             for task in ("ss_vae", "ss_dit")}  # fmt: skip
    draw(rebuilt(out / "ss_vae"), steps["ss_vae"], DOCS / "expected" / "quickstart_ss_vae.png")
    draw(generated(out), steps["ss_dit"], DOCS / "quickstart.png")


def _short(name: str) -> str:
    return name.rsplit("_", 1)[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
