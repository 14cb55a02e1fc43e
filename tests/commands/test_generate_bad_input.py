"""What people give `generate` by mistake: one clear line, the right exit code, no file left."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from tests.generation.test_image import BAD as BAD_IMAGES
from tests.training.corridor import VAE
from tests.training.generation_runs import (
    Runs,
    ball_picture,
    write_dit,
    write_runs,
    write_structure,
)
from tests.training.vae_runs import write_run
from threed_gen import cli
from threed_gen.errors import EXIT_DISK, EXIT_USER


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return write_runs(tmp_path_factory.mktemp("runs"))


@dataclass
class Call:
    """A call that would go well, to be spoilt."""

    runs: Runs
    folder: Path  # empty
    patch: pytest.MonkeyPatch

    def __post_init__(self) -> None:
        self.images: list[Path] = [self.runs.image]
        self.out = str(self.folder / "out" / "a.glb")
        self.options: list[str] = []
        self.run = self.runs.dit

    def copy(self) -> Path:
        """The SS-DiT's run, to be damaged."""
        self.run = shutil.copytree(self.runs.dit, self.folder / "dit")
        return self.run


def nan(module: nn.Module) -> None:
    next(module.model.blocks.parameters()).view(-1)[0] = torch.nan  # type: ignore[union-attr,operator]


def all_nan(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.fill_(torch.nan)


def spoil(**values: object) -> Callable[[Call], None]:
    def apply(call: Call) -> None:
        for name, value in values.items():
            setattr(call, name, value)

    return apply


def option(*words: str) -> Callable[[Call], None]:
    return spoil(options=list(words))


def no_structure(call: Call) -> None:
    call.run = write_dit(call.folder / "lone", call.runs.vae, None)


def structure_gone(call: Call) -> None:
    gone = write_structure(call.folder / "gone")
    call.run = write_dit(call.folder / "lone", call.runs.vae, gone)
    shutil.rmtree(gone)


def not_a_run(call: Call) -> None:
    call.run = call.folder


def wrong_task(call: Call) -> None:
    call.run = call.runs.vae


def structure_of_wrong_task(call: Call) -> None:
    call.options = ["--structure", str(call.runs.dit)]


def vae_of_wrong_task(call: Call) -> None:
    call.options = ["--vae", str(call.runs.structure)]


def other_grid(call: Call) -> None:
    finer = write_structure(call.folder / "finer", resolution=64)
    call.options = ["--structure", str(finer)]


def other_vae(call: Call) -> None:
    other = write_run(call.folder / "other", VAE, [32], step=9)
    call.options = ["--vae", str(other)]


def vae_trained_on(call: Call) -> None:
    """The same run, at a later step by now."""
    vae = shutil.copytree(call.runs.vae, call.folder / "vae")
    call.run = write_dit(call.folder / "dit", vae, call.runs.structure)
    write_run(vae, VAE, [32], step=11)


def vae_gone(call: Call) -> None:
    vae = shutil.copytree(call.runs.vae, call.folder / "vanishing")
    call.run = write_dit(call.folder / "dit", vae, call.runs.structure)
    shutil.rmtree(vae)


def other_size(call: Call) -> None:
    config = call.copy() / "config.yaml"
    config.write_text(config.read_text().replace("mlp_ratio: 2.0", "mlp_ratio: 3.0", 1))


def told_captions(root: Path) -> Path:
    tree = yaml.safe_load((root / "config.yaml").read_text())
    tree["condition"] = {"encoder": "text"}
    (root / "config.yaml").write_text(yaml.safe_dump(tree))
    return root


def captions(call: Call) -> None:
    told_captions(call.copy())


def captions_of_structure(call: Call) -> None:
    structure = told_captions(shutil.copytree(call.runs.structure, call.folder / "told"))
    call.options = ["--structure", str(structure)]


def nan_weights(call: Call) -> None:
    call.run = write_dit(call.folder / "nan", call.runs.vae, call.runs.structure, change=nan)


def nan_structure(call: Call) -> None:
    structure = write_structure(call.folder / "nan", change=nan)
    call.options = ["--structure", str(structure)]


def nan_vae(call: Call) -> None:
    vae = write_run(call.folder / "nan_vae", VAE, [32], change=all_nan_in_place)
    call.run = write_dit(call.folder / "dit", vae, call.runs.structure)


def all_nan_in_place(module: nn.Module) -> None:
    with torch.no_grad():
        all_nan(module)


def damaged_checkpoint(call: Call) -> None:
    (file,) = call.copy().glob("checkpoints/*/rank_00000.safetensors")
    file.write_bytes(file.read_bytes()[:-10])


def no_checkpoint(call: Call) -> None:
    shutil.rmtree(call.copy() / "checkpoints")


def damaged_sources(call: Call) -> None:
    (call.copy() / "sources.json").write_text('{"ss_vae": 3')


def statistics_of_other_width(call: Call) -> None:
    path = call.copy() / "sources.json"
    tree = json.loads(path.read_text())
    tree["statistics"] |= {"mean": [0.0], "std": [1.0]}
    path.write_text(json.dumps(tree))


def nan_latents(call: Call) -> None:
    from threed_gen.generation import stages

    real = stages.sample_latents
    call.patch.setattr(stages, "sample_latents", lambda *a, **k: real(*a, **k) * torch.nan)


def nan_field(call: Call) -> None:
    from threed_gen.models.ss_vae import Decoder

    real = Decoder.tail
    call.patch.setattr(
        Decoder, "tail", lambda self, h: (found := real(self, h)).replace(found.feats * torch.nan)
    )


def empty_structure(call: Call) -> None:
    from threed_gen.generation import structure

    call.patch.setattr(structure.StructureSpace, "probability", lambda self, x: x.float() * 0)


def no_surface(call: Call) -> None:
    from threed_gen.models.ss_vae import Decoder

    real = Decoder.tail
    call.patch.setattr(
        Decoder, "tail", lambda self, h: (found := real(self, h)).replace(found.feats * 0 + 0.5)
    )


def no_gpu_memory(call: Call) -> None:
    from threed_gen.generation import stages

    def full(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n20 GiB")

    call.patch.setattr(stages, "sample_latents", full)


def full_disk(call: Call) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    call.patch.setattr("threed_gen.files.os.fsync", fsync)


def out_is_below_a_file(call: Call) -> None:
    (call.folder / "file").write_text("")
    call.out = str(call.folder / "file" / "a.glb")


def out_is_a_folder(call: Call) -> None:
    (call.folder / "a.glb").mkdir()
    call.images = [call.runs.image]
    call.out = str(call.folder / "a.stl" / "b.stl")


def two_into_one(call: Call) -> None:
    call.images = [call.runs.image, ball_picture(call.folder / "other.png")]


def cascade_not_finer(call: Call) -> None:
    call.options = ["--cascade", str(call.runs.dit)]


def format_against_name(call: Call) -> None:
    call.options = ["--format", "obj"]


CASES: dict[str, tuple[Callable[[Call], None], str]] = {
    "not a run": (not_a_run, "not a run directory"),
    "run of wrong task": (wrong_task, "a run of task ss_vae; this needs one of task ss_dit"),
    "no structure stage": (no_structure, "remembers no structure stage"),
    "structure stage gone": (structure_gone, "is not there; give --structure RUN"),
    "structure of wrong task": (structure_of_wrong_task, "this needs one of task structure_dit"),
    "structure of another grid": (other_grid, "was not trained at resolution 64 (only 32)"),
    "vae of wrong task": (vae_of_wrong_task, "this needs one of task ss_vae"),
    "trained on captions": (captions, "was trained on captions"),
    "structure of captions": (captions_of_structure, "was trained on captions"),
    "another vae": (other_vae, "are not those that"),
    "vae trained on": (vae_trained_on, "its weights (step 11) are not those that"),
    "vae gone": (vae_gone, "is not there; give --vae RUN"),
    "weights of another size": (other_size, "has shape ["),
    "NaN weights": (nan_weights, "1 weights are not finite"),
    "NaN weights of the structure": (nan_structure, "1 weights are not finite"),
    "NaN weights of the vae": (nan_vae, "weights are not finite"),
    "damaged checkpoint": (damaged_checkpoint, "no whole checkpoint"),
    "no checkpoint": (no_checkpoint, "no whole checkpoint"),
    "damaged sources.json": (damaged_sources, "sources.json: missing or damaged"),
    "statistics of other width": (statistics_of_other_width, "do not fit together"),
    "NaN latents": (nan_latents, "latents of"),
    "NaN field": (nan_field, "decoded values of"),
    "empty structure": (empty_structure, "found no latent cells; try another --seed"),
    "no surface": (no_surface, "has no surface"),
    "GPU is full": (no_gpu_memory, "does not fit into the GPU's memory; give --batch 1"),
    "full disk": (full_disk, "could not write the mesh: No space left"),
    "out below a file": (out_is_below_a_file, "choose another path"),
    "unknown suffix": (out_is_a_folder, "known: .glb .obj .ply"),
    "two images into one file": (two_into_one, "2 images do not go into one file"),
    "cascade is not finer": (cascade_not_finer, "which is not finer than"),
    "format against name": (format_against_name, "is no .obj file"),
    "negative steps": (option("--steps", "-3"), "--steps -3: must be at least 1"),
    "negative guidance": (option("--guidance", "-1"), "--guidance -1: must be at least 0"),
    "guidance of NaN": (option("--guidance", "nan"), "--guidance nan: must be at least 0"),
    "no batch": (option("--batch", "0"), "--batch 0: must be at least 1"),
    "no chunk": (option("--chunk", "0"), "--chunk 0: must be at least 1"),
    "three faces": (option("--faces", "3"), "--faces 3: must be at least 4"),
    "level": (option("--level", "1.5"), "--level 1.5: must lie between -1 and 1"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_clear_line(
    runs: Runs, tmp_path: Path, name: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    spoil_it, message = CASES[name]
    (tmp_path / "work").mkdir()
    call = Call(runs, tmp_path / "work", monkeypatch)
    spoil_it(call)
    monkeypatch.setattr("threed_gen.generation.image.run_tasks", in_this_process)
    words = [*map(str, call.images), "--run", str(call.run), "--out", call.out, *call.options]
    code = cli.main(["generate", *words])
    lines = [line for line in capsys.readouterr().err.splitlines() if " error: " in line]
    assert code == (EXIT_DISK if name == "full disk" else EXIT_USER), lines
    assert len(lines) == 1 and message in lines[0], lines
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".glb", ".tmp")
                and path.is_file()]  # fmt: skip


@pytest.mark.parametrize("name", [*BAD_IMAGES])
def test_bad_images_come_before_anything_is_loaded(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, _ = BAD_IMAGES[name]
    monkeypatch.setattr("threed_gen.generation.image.run_tasks", in_this_process)
    image = make(tmp_path)
    code = cli.main(["generate", str(image), "--run", "nowhere", "--out", str(tmp_path / "a.glb")])
    lines = capsys.readouterr().err.splitlines()
    assert code == EXIT_USER and len(lines) == 1 and str(image) in lines[0]


def test_no_image_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["generate", "--run", "runs/a", "--out", "a.glb"])
    assert caught.value.code == EXIT_USER and "IMAGE" in capsys.readouterr().err


def in_this_process(call: Callable[[Path], object], tasks: list[Path], *_: object) -> object:
    """`run_tasks` without its child; that is tested by itself."""
    return [call(task) for task in tasks]
