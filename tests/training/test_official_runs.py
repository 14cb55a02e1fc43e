"""A release to runs and back: the same bits, and runs that load wherever a run is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.models.official.released import tiny_release
from tests.training import vae_runs
from threed_gen import cli
from threed_gen.commands.convert import runs_in
from threed_gen.errors import UserError
from threed_gen.files import write_json
from threed_gen.models.conditioning.conditioner import Conditioner
from threed_gen.models.official.networks import SLOTS, blueprint
from threed_gen.models.official.tensors import halved_names
from threed_gen.models.ss_vae import SSVAE, SSVAEConfig
from threed_gen.training import load_generation, load_structure
from threed_gen.training.encode import FrozenVAE
from threed_gen.training.init_from import load_initial
from threed_gen.training.load import load_vae, newest_of, weights_of
from threed_gen.training.load_generation import structure_of
from threed_gen.training.official_runs import convert_from, convert_to
from threed_gen.training.run_config import InitFrom, load_run_config

Files = dict[str, dict[str, dict[str, torch.Tensor]]]


class Case:
    """A release, the runs made of it, and the release made of those."""

    def __init__(self, root: Path, version: str) -> None:
        self.release, self.runs, self.back = root / "release", root / "runs", root / "back"
        self.files: Files = tiny_release(self.release, version)
        self.told = convert_from(self.release, self.runs)
        convert_to(sorted(self.runs.iterdir()), self.back)


@pytest.fixture(scope="module", params=["1.0", "1.1"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("release"), request.param)


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A release of one sparse stage, to be spoilt."""
    folder = tmp_path / "release"
    tiny_release(folder, "1.1")
    change_config(folder, lambda tree: [tree.pop(key) for key in list(tree) if key not in KEPT])
    return folder


KEPT = ("sparse_vae_512", "sparse_dit_512", "sparse_scheduler_512", "sparse_image_encoder")
SPARSE = "model_sparse_512.ckpt"


def change_config(folder: Path, change: Any) -> None:
    path = folder / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    change(tree)
    path.write_text(yaml.safe_dump(tree))


def change_file(folder: Path, change: Any) -> None:
    parts = torch.load(folder / SPARSE)
    change(parts)
    torch.save(parts, folder / SPARSE)


def test_a_round_trip_has_the_same_bits(case: Case) -> None:
    assert sorted(p.name for p in case.back.iterdir()) == ["config.yaml", *sorted(case.files)]
    for name, parts in case.files.items():
        back = torch.load(case.back / name, weights_only=True)
        assert list(back) == list(parts)
        for part, state in parts.items():
            assert set(back[part]) == set(state)
            for key, tensor in state.items():
                assert back[part][key].dtype == tensor.dtype, key
                assert torch.equal(back[part][key], tensor), key
    told, known = (yaml.safe_load((f / "config.yaml").read_text())
                   for f in (case.back, case.release))  # fmt: skip
    assert set(told) == set(known) - {"refiner", "refiner_1024"}
    for name, tree in told.items():
        params = known[name]["params"]
        assert {key: tree["params"][key] for key in params} == params, name
        assert tree["target"] == known[name]["target"]


def test_every_network_is_a_run(case: Case) -> None:
    assert [one.slot for one in case.told] == list(SLOTS)
    for slot in SLOTS:
        config, checkpoint = newest_of(case.runs / slot.name)
        assert config.task == slot.task and checkpoint.step == 0
        assert config.data.resolutions == [slot.resolution]
        state = weights_of(checkpoint, "ema")
        own = blueprint(config.model).state_dict()  # type: ignore[attr-defined]
        assert set(state) == {f"model.{name}" for name in own}
        source = case.files[slot.file][slot.part]
        for name, tensor in source.items():
            assert state[f"model.{name}"].dtype == torch.float32  # widened for training
            assert torch.equal(state[f"model.{name}"], tensor.float())
    half = {name for name, tensor in source.items() if tensor.dtype == torch.float16}
    assert half == halved_names(blueprint(config.model))  # type: ignore[attr-defined]


def test_the_sections_around_the_networks(case: Case) -> None:
    dense = load_run_config(case.runs / "structure_dit" / "config.yaml")
    first = load_run_config(case.runs / "ss_dit_512" / "config.yaml")
    second = load_run_config(case.runs / "ss_dit_1024" / "config.yaml")
    is_old = first.model.compression == "residual"  # type: ignore[attr-defined]
    for run, steps, shift in ((dense, 50, 6.0), (first, 30, 6.0), (second, 15, 8.0)):
        sampler, condition = run.validation.sampler, run.condition  # type: ignore[attr-defined]
        assert (sampler.steps, sampler.shift, sampler.guidance.scale) == (steps, shift, 7.0)
        assert condition.encoder == "dinov2" and condition.size == 518
        assert condition.sparse == (is_old and run is not dense)
    assert [run.model.top_k for run in (first, second)] == ([32, 8] if is_old else [8, 8])  # type: ignore[attr-defined]
    assert first.latents.run == str(case.runs / "ss_vae_512")  # type: ignore[attr-defined]
    assert dense.structure.run == str(case.runs / "structure_vae")  # type: ignore[attr-defined]
    assert not first.latents.normalise and not dense.structure.normalise  # type: ignore[attr-defined]


def test_the_ss_dit_remembers_its_ss_vae(case: Case) -> None:
    told = yaml.safe_load((case.runs / "ss_dit_1024" / "sources.json").read_text())
    assert told["ss_vae"]["sha256"] == FrozenVAE(case.runs / "ss_vae_1024").weights_sha256
    assert told["ss_vae"]["run"] == str(case.runs / "ss_vae_1024")
    assert set(told["statistics"]["mean"]) == {0.0} and set(told["statistics"]["std"]) == {1.0}
    assert told["structure"]["run"] == str(case.runs / "structure_dit")
    assert structure_of(case.runs / "ss_dit_1024") == case.runs / "structure_dit"


class Blind(Conditioner):
    """Stands for the image encoder, which would be downloaded."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)


def test_converted_runs_load_as_the_stages_of_a_generation(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (load_structure, load_generation):
        monkeypatch.setattr(module, "conditioner_of", lambda config: Blind())
    structure = load_structure.load_structure(case.runs / "structure_dit").structure
    source = case.files["model_dense.ckpt"]
    for name, tensor in structure.dit.state_dict().items():
        assert torch.equal(tensor, source["dit"][name].float())
    assert structure.vae is not None and structure.threshold == 0.1
    for name, tensor in structure.vae.state_dict().items():
        assert torch.equal(tensor, source["vae"][name].float())
    for resolution in (512, 1024):
        stage = load_generation.load_latent_stage(case.runs / f"ss_dit_{resolution}")
        source = case.files[f"model_sparse_{resolution}.ckpt"]
        for name, tensor in stage.dit.state_dict().items():
            assert torch.equal(tensor, source["dit"][name].float())
        for name, tensor in stage.vae.state_dict().items():
            assert torch.equal(tensor, source["vae"][name].float())
    assert load_generation.structure_of(case.runs / "ss_dit_512") == case.runs / "structure_dit"


@pytest.mark.parametrize("case", ["1.1"], indirect=True)
def test_a_converted_ss_vae_is_what_training_can_begin_with(case: Case) -> None:
    config = load_vae(case.runs / "ss_vae_512").config.model

    class Trained(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = SSVAE(config)

    module = Trained()
    lines = load_initial(module, InitFrom(path=str(case.runs / "ss_vae_512")))
    assert lines[0].startswith("init_from: 68 of 68 tensors")
    source = case.files[SPARSE]["vae"]
    for name, tensor in module.model.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, source[name].float())


@pytest.mark.parametrize("case", ["1.1"], indirect=True)
def test_the_command_says_what_went_through_and_what_did_not(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, back = tmp_path / "runs", tmp_path / "back"
    line = ["convert", "--from", "direct3d-s2", str(case.release), "--out", str(out)]
    assert cli.main(line) == 0
    said = capsys.readouterr().out
    assert all(slot.section in said for slot in SLOTS)
    assert "left out: 4 names of refiners (refiner, refiner_1024, model_refiner.ckpt" in said
    assert cli.main(line) == 2  # it is there already
    assert "is there already" in capsys.readouterr().err
    assert cli.main([*line, "--fp16"]) == 2
    assert "leave out --fp16" in capsys.readouterr().err
    line = ["convert", "--to", "direct3d-s2", str(out / "ss_vae_512"), "--out", str(back)]
    assert cli.main([*line, "--fp16"]) == 0
    said = capsys.readouterr().out
    assert "1 of 6 networks of a release; not given: dense_vae, dense_dit, sparse_dit_512" in said
    assert sorted(p.name for p in back.iterdir()) == ["config.yaml", SPARSE]
    assert runs_in([out]) == sorted(out / slot.name for slot in SLOTS)
    with pytest.raises(UserError, match="neither a run directory nor a folder of"):
        runs_in([tmp_path / "absent"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: change_file(f, lambda p: p["dit"].pop("out_layer.bias")),
         f"{SPARSE}: dit: out_layer.bias is missing; 55 tensors were found"),
        (lambda f: change_file(f, lambda p: p["vae"].update(more=torch.zeros(1))),
         f"{SPARSE}: vae: more is not in this network"),
        (lambda f: change_file(f, lambda p: p.pop("dit")), "has no part 'dit' (it has vae)"),
        (lambda f: (f / SPARSE).unlink(), f"{SPARSE}: no such file"),
        (lambda f: change_config(f, lambda t: t.pop("sparse_vae_512")),
         "sparse_dit_512 needs its section sparse_vae_512"),
        (lambda f: change_config(f, lambda t: t.pop("sparse_scheduler_512")),
         "section 'sparse_scheduler_512' is missing"),
        (lambda f: change_config(f, lambda t: t["sparse_image_encoder"]["params"].update(size=224)),
         "sparse_image_encoder: size is 224, only 518"),
        (lambda f: change_config(f, lambda t: t["sparse_dit_512"]["params"].update(num_blocks=3)),
         "blocks.2.norm2.weight is missing (and 23 more)"),
    ],
)  # fmt: skip
def test_a_spoilt_release_leaves_nothing_behind(sparse: Path, spoil: Any, said: str) -> None:
    spoil(sparse)
    out = sparse.parent / "runs"
    with pytest.raises(UserError) as caught:
        convert_from(sparse, out)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert [p.name for p in sparse.parent.iterdir()] == ["release"]


TINY = SSVAEConfig(
    encoder_widths=(4, 8, 16, 64), decoder_widths=(64, 16, 8, 4), latent_channels=2,
    encoder_blocks=1, decoder_blocks=1, heads=2, pooling="released",
)  # fmt: skip


def test_a_run_of_our_own_becomes_a_release(tmp_path: Path) -> None:
    run = vae_runs.write_run(tmp_path / "run", TINY, [256, 512])
    convert_to([run], tmp_path / "out", half=True)
    state = torch.load(tmp_path / "out" / SPARSE, weights_only=True)["vae"]
    own = load_vae(run).model.state_dict()
    half = halved_names(blueprint(TINY))
    assert 0 < len(half) < len(own) == len(state)
    for name, tensor in own.items():
        assert torch.equal(state[name], tensor.half() if name in half else tensor)
    # With --weights model it is the other set, and unrounded without --fp16.
    convert_to([run], tmp_path / "other", weights="model")
    other = torch.load(tmp_path / "other" / SPARSE, weights_only=True)["vae"]
    assert torch.equal(
        other["encoder.out_layer.bias"], load_vae(run, "model").model.encoder.out_layer.bias
    )
    assert not torch.equal(other["decoder.input_layer.weight"], own["decoder.input_layer.weight"])


def test_two_runs_for_one_place_are_refused(tmp_path: Path) -> None:
    runs = [vae_runs.write_run(tmp_path / name, TINY, [512]) for name in ("a", "b")]
    with pytest.raises(UserError, match="are both ss_vae_512"):
        convert_to(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["1.1"], indirect=True)
@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("ss_dit_512", lambda t: t["condition"].update(encoder="patches", size=64),
         "condition.encoder is"),
        ("ss_dit_512", lambda t: t["condition"].update(size=224), "condition.size is 224"),
        ("ss_dit_512", lambda t: t["validation"]["sampler"].update(spacing="even"), "spacing"),
        ("structure_dit", lambda t: t["condition"].update(source="other/dino"), "condition.source"),
        ("structure_dit", lambda t: [t["structure"].update(run=None), t["data"].update(
            resolutions=[128]), t["model"].update(latent_channels=1)], "denoises occupancy itself"),
    ],
)  # fmt: skip
def test_a_run_that_no_release_can_say_is_refused(
    case: Case, tmp_path: Path, name: str, change: Any, said: str
) -> None:
    root = tmp_path / name
    root.mkdir()
    for file in (case.runs / name).iterdir():
        (root / file.name).write_bytes(file.read_bytes())
    change_config(root, change)
    with pytest.raises(UserError, match=said):
        convert_to([root], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["1.1"], indirect=True)
def test_normalised_latents_have_no_place_in_a_release(case: Case, tmp_path: Path) -> None:
    root = tmp_path / "ss_dit"
    root.mkdir()
    for file in (case.runs / "ss_dit_512").iterdir():
        (root / file.name).symlink_to(file)
    (root / "sources.json").unlink()
    told = yaml.safe_load((case.runs / "ss_dit_512" / "sources.json").read_text())
    told["statistics"]["std"][0] = 1.5
    write_json(root / "sources.json", told)
    with pytest.raises(UserError, match="latents are normalised"):
        convert_to([root], tmp_path / "out")
    del told["statistics"]
    write_json(root / "sources.json", told)
    with pytest.raises(UserError, match="missing or damaged"):
        convert_to([root], tmp_path / "out")
