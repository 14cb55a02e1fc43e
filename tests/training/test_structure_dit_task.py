"""The structure DiT's task by itself: its loss by hand, its VAE, its samples, what does not fit."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.training import structures
from threed_gen.data.dataset import SDFDataset
from threed_gen.errors import UserError
from threed_gen.generation.structure import occupancy_of, sample_structure
from threed_gen.randomness import generator
from threed_gen.training.init_from import load_initial
from threed_gen.training.load_structure import load_structure_vae, vae_of
from threed_gen.training.loader import StepDataset
from threed_gen.training.run_config import InitFrom, StructureDiTRun, load_run_config
from threed_gen.training.tasks.structure_dit import StructureDiTModule, StructureDiTTask


@dataclass(frozen=True)
class Opened:
    """A task over its data, as training opens it."""

    config: StructureDiTRun
    task: StructureDiTTask
    dataset: SDFDataset
    module: StructureDiTModule


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return structures.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return structures.write_vae(tmp_path_factory.mktemp("vae") / "run")


def on_latents(vae: Path) -> list[str]:
    return [f"structure.run={vae}", "model.grid=2", "model.patch=1", "model.latent_channels=3"]


def opened(data: Path, run: Path, *overrides: str) -> Opened:
    config = load_run_config(structures.TINY_DIT, [f"data.path={data}", *overrides])
    assert isinstance(config, StructureDiTRun)
    task, dataset = StructureDiTTask(config), SDFDataset(data)
    run.mkdir(exist_ok=True)
    task.prepare(dataset, run)
    dataset = task.open(dataset, run)
    module = task.build_module()
    assert isinstance(module, StructureDiTModule)
    return Opened(config, task, dataset, module)


# --- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", ["none", "mode", "sample"])
def test_the_loss_of_a_sample_by_hand(data: Path, vae: Path, tmp_path: Path, draw: str) -> None:
    """Its own time, noise, forgetting, picture and posterior; packed with others, and alone."""
    kind = ["structure.scale=0.7"] if draw == "none" else on_latents(vae)
    if draw != "none":
        kind.append(f"structure.draw={draw}")
    one = opened(data, tmp_path, "flow.condition_dropout=0.5", *kind)
    torch.nn.init.normal_(one.module.model.out_layer.weight, std=0.1)
    samples = one.task.samples(one.dataset)
    step = StepDataset(one.config, samples, 0, 1)[4]
    batch, shape = step.micro[0], (one.config.model.latent_channels, *[one.config.model.grid] * 3)
    result = one.module(batch, 4)
    key = partial(generator, one.config.seed, 4)
    forgotten = []
    for row, position in enumerate(batch.positions):
        item = samples.load(step.samples[position], 32, 4, position)
        cells = one.dataset.load(step.samples[position], 32).bricks
        x0 = (occupancy_of([cells], 4).float() * 2 - 1) * 0.7
        if draw != "none":
            said = load_structure_vae(vae).model.encode(occupancy_of([cells], 4))
            z = said.mean.detach()
            if draw == "sample":
                z = z + said.std() * torch.randn(shape, generator=key("latent", position))
            told = json.loads((tmp_path / "sources.json").read_text())["statistics"]
            mean, std = (torch.tensor(told[k]).view(1, 3, 1, 1, 1) for k in ("mean", "std"))
            x0 = (z - mean) / std
        z = torch.randn((), generator=key("flow_time", position), dtype=torch.float64)
        t = float(torch.sigmoid(1 + z))
        rows = torch.randn(shape[1] ** 3, shape[0], generator=key("flow_noise", position))
        noise = rows.t().reshape(1, *shape)
        dropped = float(torch.rand((), generator=key("flow_dropout", position))) < 0.5
        alone = samples.pack([item], ["alone"], [position])
        condition = one.module.conditioner(alone.shown)
        if dropped:
            condition = condition._replace(feats=torch.zeros_like(condition.feats))
        x_t, times = ((1 - t) * x0 + t * noise).float(), torch.tensor([t], dtype=torch.float32)
        velocity = one.module.model(x_t, times, condition)
        expected = (velocity - (noise - x0)).square().mean().float()
        torch.testing.assert_close(result.weighted[row], expected, rtol=1e-4, atol=1e-5)
        assert result.watched[row, 0] == pytest.approx(t)
        assert bool(result.watched[row, 1]) == dropped
        assert int(result.watched[row, 2]) == condition.seqlens[0]
        forgotten.append(dropped)
    assert len(set(forgotten)) == 2  # the step has one of each


def test_the_vae_is_neither_trained_nor_saved(data: Path, vae: Path, tmp_path: Path) -> None:
    one = opened(data, tmp_path, *on_latents(vae))
    assert not any("encoder." in name and "conditioner" not in name
                   for name in one.module.state_dict())  # fmt: skip
    batch = one.task.samples(one.dataset).padding(32)
    torch.nn.init.normal_(one.module.model.out_layer.weight)
    one.module(batch, 0).weighted.sum().backward()
    assert one.module.space.vae is not None
    assert all(p.grad is None for p in one.module.space.vae.parameters())


def test_latents_have_mean_0_and_variance_1(data: Path, vae: Path, tmp_path: Path) -> None:
    one = opened(data, tmp_path, *on_latents(vae))
    samples = one.task.samples(one.dataset)
    count = len(one.dataset)
    items = [samples.fixed(i, 32) for i in range(count)]
    x0 = one.module.x0(samples.pack(items, ["x"] * count, list(range(count))), None)
    flat = x0.movedim(1, 0).flatten(1).double()
    torch.testing.assert_close(flat.mean(1), torch.zeros(3).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(flat.std(1, unbiased=False), torch.ones(3).double())
    half = opened(data, tmp_path / "half", *on_latents(vae), "structure.measure=2")
    told = json.loads((tmp_path / "half" / "sources.json").read_text())["statistics"]
    assert told["tokens"] == 2 * 8
    chosen = half.module.x0(samples.pack([items[0], items[3]], ["x"] * 2, [0, 1]), None)
    flat = chosen.movedim(1, 0).flatten(1).double()
    torch.testing.assert_close(flat.mean(1), torch.zeros(3).double(), rtol=0, atol=1e-5)
    told = ["structure.normalise=false", *on_latents(vae)]
    plain = opened(data, tmp_path / "plain", *told).module
    assert plain.space.vae is not None
    z = plain.space.vae.encode(occupancy_of([one.dataset.load(1, 32).bricks], 4)).mean
    assert torch.equal(plain.x0(samples.pack([items[1]], ["x"], [0]), None), z)


# --- what a run remembers ------------------------------------------------------------------------


def test_another_vae_than_the_one_that_a_run_began_with(data: Path, tmp_path: Path) -> None:
    vae, run = structures.write_vae(tmp_path / "vae"), tmp_path / "run"
    one, path = opened(data, run, *on_latents(vae)), run / "sources.json"
    told = path.read_text()
    one.task.prepare(one.dataset, run)  # a resumed run finds the same one
    assert path.read_text() == told
    structures.write_vae(vae, step=9)
    began = "began with step 5 of the structure VAE .* step 9 now"
    late = StructureDiTTask(one.config)
    with pytest.raises(UserError, match=began):
        late.prepare(one.dataset, run)
    with pytest.raises(UserError, match=began):
        late.open(one.dataset, run)
    path.write_text("{")
    with pytest.raises(UserError, match="sources.json: missing or damaged"):
        opened(data, run, *on_latents(vae))


def test_a_vae_that_was_moved_together_with_the_run(data: Path, tmp_path: Path) -> None:
    vae = structures.write_vae(tmp_path / "here" / "vae")
    one = opened(data, tmp_path / "here" / "run", *on_latents(vae))
    (tmp_path / "here").rename(tmp_path / "there")
    found = vae_of(one.config, tmp_path / "there" / "run")
    assert found is not None and found.root == tmp_path / "there" / "vae"
    with pytest.raises(UserError, match="not a run directory"):
        vae_of(one.config)


def test_occupancy_needs_no_sources(data: Path, tmp_path: Path) -> None:
    opened(data, tmp_path)
    assert not (tmp_path / "sources.json").exists()


def test_beginning_with_weights_with_or_without_the_table_of_positions(
    data: Path, tmp_path: Path
) -> None:
    """A checkpoint holds parameters alone; a released file the constant table as well."""
    one = opened(data, tmp_path)
    other = opened(data, tmp_path, "seed=9").module
    save_file(dict(other.named_parameters()), tmp_path / "run.safetensors")
    lines = load_initial(one.module, InitFrom(path=str(tmp_path / "run.safetensors")))
    count = len(list(other.parameters()))
    assert lines[0].startswith(f"init_from: {count} of {count} tensors") and len(lines) == 1
    for a, b in zip(one.module.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    save_file(other.state_dict(), tmp_path / "all.safetensors")
    assert len(load_initial(one.module, InitFrom(path=str(tmp_path / "all.safetensors")))) == 1
    fewer = {n: p for n, p in other.named_parameters() if n != "model.out_layer.bias"}
    save_file(fewer, tmp_path / "fewer.safetensors")
    with pytest.raises(UserError, match="model.out_layer.bias is missing"):
        load_initial(one.module, InitFrom(path=str(tmp_path / "fewer.safetensors")))


# --- samples, verdict ----------------------------------------------------------------------------


def test_samples_travel_to_workers_and_stand_ins_can_be_trained_on(
    data: Path, tmp_path: Path
) -> None:
    one = opened(data, tmp_path)
    samples = one.task.samples(one.dataset)
    again = pickle.loads(pickle.dumps(samples)).load(1, 32, 3, 0)
    here = samples.load(1, 32, 3, 0)
    assert np.array_equal(again.cells, here.cells)
    assert torch.equal(again.shown.picture, here.shown.picture)
    padding = samples.padding(32)
    assert padding.is_padding and padding.tokens == [8]
    assert one.module(padding, 0).weighted.isfinite().all()


def test_validation(data: Path, vae: Path, tmp_path: Path) -> None:
    """The same whenever it is asked; the sample is that of `sample_structure`."""
    from threed_gen.training.validate_structure import cell_metrics
    from threed_gen.training.validation_set import draws_of

    one, device = opened(data, tmp_path, *on_latents(vae)), torch.device("cpu")
    for parameter in one.module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    weights = one.task.weights_of(dict(one.module.named_parameters()))  # no constants
    (shape,) = one.task.validate(weights, one.dataset, [3], device)
    (again,) = one.task.validate(weights, one.dataset, [3], device)
    assert shape.metrics == again.metrics
    titles = ["image", "true cells", "VAE round trip", "sampled cells"]
    assert [panel.title for panel in shape.panels] == titles
    samples, name = one.task.samples(one.dataset), one.dataset.entry(3).id
    item = samples.fixed(3, 32)
    space, config = one.module.space, one.config
    from threed_gen.generation.structure import Structure

    structure = Structure(
        one.module.model.eval(), space.vae, 4, config.structure.threshold, space.statistics
    )
    batch = samples.pack([item], [name], [0])
    (found,) = sample_structure(
        structure, one.module.conditioner(batch.shown), config.validation.sampler,
        draws_of(name),
    )  # fmt: skip
    for key, value in cell_metrics(found, item.cells).items():
        assert shape.metrics[key] == pytest.approx(value)
    weights["model.out_layer.bias"] = torch.full((3,), torch.nan)
    (shape,) = one.task.validate(weights, one.dataset, [3], device)
    assert shape.metrics["loss"] is None and shape.metrics["cells"] == 0
    json.dumps(shape.metrics, allow_nan=False)
    assert one.task.score({"loss": None}) is None and one.task.score({"loss": 2.0}) == -2.0


def test_warnings(data: Path, tmp_path: Path) -> None:
    one = opened(data, tmp_path, "structure.scale=0.5")
    assert one.task.warnings({"velocity": 1.8}) == []
    (line,) = one.task.warnings({"velocity": 2.0})
    assert "a model that says nothing has 1.25" in line


# --- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.latent_channels=8"], "model.latent_channels: occupancy has 1; set it, or give"),
        (["model.grid=8"], "model.grid: is 8, but resolution 32 has 4 latent cells per axis"),
        (["data.resolutions=[32, 64]"], "a structure DiT has one grid; give one resolution"),
        (["model.condition_channels=32"], "model.condition_channels: is 32, but the encoder has"),
        (["structure.run=nowhere"], "nowhere"),
        (["structure.run=VAE", "model.latent_channels=3"], "model.grid: is 4, but the structure V"),
        (["structure.run=VAE", "model.grid=2"], "model.latent_channels: is 1, but the structure V"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(
    data: Path, vae: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    given = [one.replace("VAE", str(vae)) for one in overrides]
    with pytest.raises(UserError) as told:
        opened(data, tmp_path, *given)
    assert message in str(told.value) and "\n" not in str(told.value)


def test_a_run_of_another_task_is_no_vae(data: Path, vae: Path, tmp_path: Path) -> None:
    text = (vae / "config.yaml").read_text()
    other = tmp_path / "vae"
    structures.write_vae(other)
    (other / "config.yaml").write_text("task: ss_vae\n")
    with pytest.raises(UserError, match="a run of task ss_vae; this needs one of task structure_v"):
        opened(data, tmp_path, *on_latents(other))
    (other / "config.yaml").write_text(text.replace("latent_channels: 3", "latent_channels: 4"))
    with pytest.raises(UserError, match="does not fit"):
        opened(data, tmp_path, *on_latents(other))
