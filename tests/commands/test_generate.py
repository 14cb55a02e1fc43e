"""`generate` with tiny random networks: seeds, batches, options and files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models.conditioning.pictures import CHANNELS, save_dino
from tests.training.generation_runs import (
    Runs,
    ball_picture,
    write_dit,
    write_runs,
    write_structure,
)
from threed_gen import cli
from threed_gen.generation.image import decode_image
from threed_gen.generation.stages import Picture, grid_of
from threed_gen.geometry.mesh_io import load_mesh
from threed_gen.models.conditioning.config import ConditionConfig
from threed_gen.training.load_generation import (
    load_latent_stage,
    load_structure_stage,
    shared,
    structure_of,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return write_runs(tmp_path_factory.mktemp("runs"))


def pictures(folder: Path) -> list[Picture]:
    colours = [(200, 40, 30), (20, 40, 230), (60, 250, 90)]
    paths = [ball_picture(folder / f"{n}.png", colour) for n, colour in enumerate(colours)]
    return [Picture(path.name, decode_image(path), path.name) for path in paths]


def test_a_sample_does_not_know_its_batch(runs: Runs, tmp_path: Path) -> None:
    """Cells and latents of three pictures together are those of each alone, to 1e-4 of a latent."""
    some = pictures(tmp_path)
    structure, latent = load_structure_stage(runs.structure), load_latent_stage(runs.dit)
    together = structure.cells(some, 3, CPU, lambda: None)
    latents = latent.latents(some, together, 3, CPU, lambda: None)
    assert not np.array_equal(together[0], together[1])
    for number, one in enumerate(some):
        (cells,) = structure.cells([one], 3, CPU, lambda: None)
        assert np.array_equal(cells, together[number])
        (alone,) = latent.latents([one], [cells], 3, CPU, lambda: None)
        torch.testing.assert_close(alone, latents[number], rtol=0, atol=1e-4)
    (other,) = structure.cells(some[:1], 4, CPU, lambda: None)
    assert not np.array_equal(other, together[0])


def test_latents_are_denormalised_and_in_the_order_of_the_grid(runs: Runs, tmp_path: Path) -> None:
    """Mean 0.1 and deviation 1.5 of the fixture; the grid of one shape is that of the batch."""
    latent = load_latent_stage(runs.dit)
    cells = [np.argwhere(np.ones((4, 4, 4))).astype(np.int32)] * 2
    found = latent.latents(pictures(tmp_path)[:2], cells, 0, CPU, lambda: None)
    assert found[0].shape == (64, 4) and found[0].std() == pytest.approx(1.5, rel=0.3)
    both, alone = grid_of(cells, 32), grid_of(cells[:1], 32)
    assert torch.equal(both.coords[64:, 1:], alone.coords[:, 1:])


def test_what_a_run_remembers(runs: Runs) -> None:
    assert structure_of(runs.dit) == runs.structure
    stage = load_latent_stage(runs.dit)
    assert (stage.resolution, stage.sampler.steps, stage.bf16) == (32, 2, False)
    assert stage.tau == pytest.approx(4 / 32) and stage.statistics.std.tolist() == [1.5] * 4
    assert not any(p.requires_grad for p in (*stage.dit.parameters(), *stage.vae.parameters()))
    other = load_latent_stage(runs.cascade)
    assert shared(other, stage).conditioner is other.conditioner  # trained along: each its own


def test_runs_that_were_moved_together_are_found(runs: Runs, tmp_path: Path) -> None:
    moved = shutil.copytree(runs.dit.parent, tmp_path / "elsewhere")
    away = runs.dit.parent.rename(tmp_path / "gone")
    try:
        assert structure_of(moved / "dit") == moved / "structure"
        assert load_latent_stage(moved / "dit").resolution == 32
    finally:
        away.rename(runs.dit.parent)


def test_same_seed_same_file(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command, with its child for the picture; the name of the image says nothing."""
    other = shutil.copy(runs.image, tmp_path / "other name.png")
    for image, name, *options in (
        (runs.image, "a"), (other, "b", "--chunk", "2"), (runs.image, "c", "--seed", "1")
    ):  # fmt: skip
        words = [str(image), "--run", str(runs.dit), "--out", f"{tmp_path}/{name}.glb", *options]
        assert cli.main(["generate", *words]) == 0
    told = capsys.readouterr()
    assert "ball.png" in told.out and "decode 32" in told.err and "peak GB" in told.err
    a, b, c = (load_mesh(tmp_path / f"{name}.glb") for name in "abc")
    assert a.faces.shape == b.faces.shape != c.faces.shape
    np.testing.assert_allclose(a.vertices, b.vertices, atol=1e-5)


@pytest.mark.long
def test_same_bytes(runs: Runs, tmp_path: Path) -> None:
    for name in "ab":
        words = [str(runs.image), "--run", str(runs.dit), "--out", f"{tmp_path}/{name}.obj"]
        assert cli.main(["generate", *words]) == 0
    assert (tmp_path / "a.obj").read_bytes() == (tmp_path / "b.obj").read_bytes()


@pytest.mark.long
def test_a_folder_of_meshes_with_every_wish(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "threed_gen.generation.image.run_tasks", lambda call, tasks, *_: [call(t) for t in tasks]
    )
    second = ball_picture(tmp_path / "ball.png", (10, 200, 200))  # the same name
    words = ["generate", str(runs.image), str(second), "--run", str(runs.dit),
             "--out", f"{tmp_path}/meshes/", "--format", "obj", "--batch", "2", "--one-pass",
             "--steps", "1", "--guidance", "1", "--fill-holes", "--faces", "200",
             "--cascade", str(runs.cascade), "--keep-inner"]  # fmt: skip
    assert cli.main(words) == 0
    files = sorted(path.name for path in (tmp_path / "meshes").iterdir())
    assert files == ["ball.obj", "ball_2.obj"]
    for name in files:
        mesh = load_mesh(tmp_path / "meshes" / name)
        assert 4 <= len(mesh.faces) <= 1000  # of thousands; noise cannot be simplified to 200
        assert np.abs(mesh.vertices).max() <= 0.5


@pytest.mark.long
def test_a_frozen_encoder_is_shared_by_the_stages(runs: Runs, tmp_path: Path) -> None:
    """A DINOv2 of random weights: the same tokens for both, one copy in memory."""
    folder = save_dino(tmp_path / "dino")
    condition = ConditionConfig(source=str(folder), size=56, augment=False)
    structure = write_structure(tmp_path / "where", condition=condition, width=CHANNELS)
    dit = write_dit(tmp_path / "what", runs.vae, structure, condition=condition, width=CHANNELS)
    first, second = load_structure_stage(structure), load_latent_stage(dit)
    assert second.conditioner is not first.conditioner
    assert shared(second, first).conditioner is first.conditioner
    words = [str(runs.image), "--run", str(dit), "--out", f"{tmp_path}/a.glb"]
    assert cli.main(["generate", *words]) == 0
    assert len(load_mesh(tmp_path / "a.glb").faces) > 0
