"""The SS-DiT's task by itself: its loss by hand, its draws, its samples, and what does not fit."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training import corridor
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.latents.reader import CachedLatents
from threed_gen.data.latents.source import x0_of
from threed_gen.errors import UserError
from threed_gen.evaluation.evaluate import drawable
from threed_gen.generation.reconstruct import reconstruct
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.mesh import Mesh
from threed_gen.models.weights import save_weights
from threed_gen.randomness import generator
from threed_gen.training.init_from import load_initial
from threed_gen.training.load import load_vae
from threed_gen.training.loader import StepDataset
from threed_gen.training.run_config import InitFrom, SSDiTRun, load_run_config
from threed_gen.training.tasks.latent_samples import LatentItem
from threed_gen.training.tasks.ss_dit import SSDiTModule, SSDiTTask


@dataclass(frozen=True)
class Opened:
    """A task over its data, as training opens it."""

    config: SSDiTRun
    task: SSDiTTask
    dataset: SDFDataset
    module: SSDiTModule


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> corridor.Corridor:
    return corridor.build(tmp_path_factory.mktemp("corridor"))


def opened(where: corridor.Corridor, run: Path, *overrides: str) -> Opened:
    config = load_run_config(corridor.TINY_DIT, [*where.cached, *overrides])
    assert isinstance(config, SSDiTRun)
    task, dataset = SSDiTTask(config), SDFDataset(where.data)
    run.mkdir(exist_ok=True)
    task.prepare(dataset, run)
    dataset = task.open(dataset, run)
    module = task.build_module()
    assert isinstance(module, SSDiTModule)
    return Opened(config, task, dataset, module)


def test_the_loss_of_a_sample_by_hand(small: corridor.Corridor, tmp_path: Path) -> None:
    """Its own time, noise, forgetting and picture; packed with others, and alone."""
    one = opened(small, tmp_path, "flow.condition_dropout=0.5")
    torch.nn.init.normal_(one.module.model.out_layer.weight, std=0.1)
    samples = one.task.samples(one.dataset)
    dealt = [StepDataset(one.config, samples, rank, 2)[4] for rank in (0, 1)]
    step = next(step for step in dealt if [*step.samples] != [*range(len(step.samples))])
    batch, indices = step.micro[0], step.samples  # positions in the global batch, not 0, 1, …
    result = one.module(batch, 4)
    draw = partial(generator, one.config.seed, 4)
    forgotten = []
    for row, position in enumerate(batch.positions):
        item = samples.load(indices[position], 16, 4, position)
        latent = samples.latents.load(indices[position], 16)
        assert torch.equal(item.x0, x0_of(latent, samples.latents.statistics))
        alone = samples.pack([item], ["alone"], [position])
        z = torch.randn((), generator=draw("flow_time", position), dtype=torch.float64)
        t = float(torch.sigmoid(1 + z))
        noise = torch.randn(item.x0.shape, generator=draw("flow_noise", position))
        dropped = float(torch.rand((), generator=draw("flow_dropout", position))) < 0.5
        x0 = alone.latents.feats
        condition = one.module.conditioner(alone.shown)
        if dropped:
            condition = condition._replace(feats=torch.zeros_like(condition.feats))
        x_t = alone.latents.replace((1 - t) * x0 + t * noise)
        said = one.module.model(x_t, torch.tensor([t], dtype=torch.float32), condition).feats
        expected = (said - (noise - x0)).square().mean()
        torch.testing.assert_close(result.weighted[row], expected, rtol=2e-5, atol=1e-6)
        assert result.watched[row, 0] == pytest.approx(t)
        assert bool(result.watched[row, 1]) == dropped
        assert int(result.watched[row, 2]) == condition.seqlens[0]
        forgotten.append(dropped)
    assert len(set(forgotten)) == 2  # the step has one of each


def test_every_view_is_shown_and_the_same_one_again(
    small: corridor.Corridor, tmp_path: Path
) -> None:
    samples = opened(small, tmp_path, "condition.augment=false").task.samples(
        SDFDataset(small.data)
    )
    pictures = [samples.load(0, 16, step, 1).shown.picture for step in range(30)]
    different = {picture.numpy().tobytes() for picture in pictures if picture is not None}
    assert len(different) == 3
    again = samples.load(0, 16, 5, 1).shown.picture
    assert again is not None and pictures[5] is not None and torch.equal(again, pictures[5])


def test_places_of_one_step_draw_their_own_views_and_ways_to_show_them(
    small: corridor.Corridor, tmp_path: Path
) -> None:
    def shown(augment: bool, positions: range) -> set[bytes]:
        told = [f"condition.augment={augment}", "condition.held_out_views=0"]
        samples = opened(small, tmp_path, *told).task.samples(SDFDataset(small.data))
        pictures = [samples.load(0, 16, 4, position).shown.picture for position in positions]
        return {picture.numpy().tobytes() for picture in pictures}

    assert len(shown(False, range(30))) == 3
    assert len(shown(True, range(30))) > 3


def test_the_loss_by_time(small: corridor.Corridor, tmp_path: Path) -> None:
    task = opened(small, tmp_path).task
    loss = torch.tensor([1.0, 3.0, 5.0])
    watched = torch.tensor([[0.31, 0, 4], [0.39, 1, 4], [0.95, 0, 4]])  # time, dropped, tokens
    bins = task.summary(loss, watched)["time_bins"]
    assert {name: tuple(one) for name, one in bins.items() if one[1]} == {
        "0.30-0.40": (2.0, 2),
        "0.90-1.00": (5.0, 1),
    }


def test_a_draw_from_the_posterior(small: corridor.Corridor, tmp_path: Path) -> None:
    """A new one in each step, around the mean by its own deviation."""
    samples = opened(small, tmp_path, "latents.draw=sample").task.samples(SDFDataset(small.data))
    latent, statistics = samples.latents.load(2, 16), samples.latents.statistics
    draws = torch.stack([samples.load(2, 16, step, 0).x0 for step in range(400)])
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(samples.load(2, 16, 1, 0).x0, draws[1])
    assert latent.logvar is not None
    std = torch.from_numpy(latent.logvar).mul(0.5).exp() / torch.from_numpy(statistics.std)
    mean = (torch.from_numpy(latent.mean) - torch.from_numpy(statistics.mean)) / torch.from_numpy(
        statistics.std
    )
    torch.testing.assert_close(draws.std(0).double(), std, rtol=0.2, atol=0)
    assert ((draws.mean(0) - mean).abs() < 5 * std / 20).all()
    assert torch.equal(samples.fixed(2, 16).x0, x0_of(latent, statistics))


def test_rows_follow_their_cells(small: corridor.Corridor, tmp_path: Path) -> None:
    """Grids have their own order of cells; latents come in the order of the bricks."""
    samples = opened(small, tmp_path).task.samples(SDFDataset(small.data))
    items = []
    for number in (1, 2):
        cells = torch.randperm(16**3, generator=torch.Generator().manual_seed(number))[:99].sort()
        bricks = torch.stack([cells.values // 256, cells.values // 16 % 16, cells.values % 16], 1)
        x0 = torch.cat([bricks, torch.full((99, 1), number)], dim=1).float()
        items.append(LatentItem(bricks.int().numpy(), x0, 128, samples.reader.blank()))
    latents = samples.pack(items, ["a", "b"], [0, 1]).latents
    assert not torch.equal(latents.feats, torch.cat([item.x0 for item in items]))
    assert torch.equal(latents.feats[:, :3].int(), latents.grid.coords[:, 1:])
    assert torch.equal(latents.feats[:, 3].int(), latents.grid.coords[:, 0] + 1)


def test_samples_travel_to_workers_and_stand_ins_can_be_trained_on(
    small: corridor.Corridor, tmp_path: Path
) -> None:
    one = opened(small, tmp_path)
    samples = one.task.samples(one.dataset)
    again = pickle.loads(pickle.dumps(samples))
    assert torch.equal(again.load(1, 16, 3, 0).x0, samples.load(1, 16, 3, 0).x0)
    padding = samples.padding(16)
    assert padding.is_padding and padding.tokens == [1]
    assert one.module(padding, 0).weighted.isfinite().all()


def test_held_out_views_are_shown_in_validation_alone(
    small: corridor.Corridor, tmp_path: Path
) -> None:
    told = ["condition.augment=false", "condition.held_out_views=1"]
    samples = opened(small, tmp_path, *told).task.samples(SDFDataset(small.data))
    held_out = samples.fixed(0, 16).shown.picture
    drawn = [samples.load(0, 16, step, 1).shown.picture for step in range(30)]
    assert not any(torch.equal(picture, held_out) for picture in drawn)
    assert len({picture.numpy().tobytes() for picture in drawn}) == 2
    told[1] = "condition.held_out_views=3"
    samples = opened(small, tmp_path, *told).task.samples(SDFDataset(small.data))
    with pytest.raises(
        UserError, match="has 3 views, and condition.held_out_views = 3 leaves none"
    ):
        samples.load(0, 16, 0, 0)


def test_samples_without_views_are_left_out_and_named(
    small: corridor.Corridor, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from threed_gen.data.views.view_set import ViewSet

    names = ViewSet(small.data).samples
    monkeypatch.setattr(ViewSet, "samples", property(lambda self: names[1:]))
    one = opened(small, tmp_path)
    assert len(one.dataset) == 5 and one.dataset.left_out == {"no views": 1}
    assert f"left out (no views): {names[0]}" in capsys.readouterr().err


def test_samples_without_latents_are_left_out_and_named(
    small: corridor.Corridor, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    name = SDFDataset(small.data).entry(2).id
    over = CachedLatents.over

    def without(self: CachedLatents, dataset: SDFDataset) -> CachedLatents:
        other = over(self, dataset)
        other.missing[name] = "rejected (nan): not finite"
        return other

    monkeypatch.setattr(CachedLatents, "over", without)
    one = opened(small, tmp_path)
    assert len(one.dataset) == 5 and one.dataset.left_out == {"no latent": 1}
    assert f"left out (no latent): {name}: rejected (nan)" in capsys.readouterr().err


def test_the_next_stage_begins_with_the_weights_of_the_last(
    small: corridor.Corridor, tmp_path: Path
) -> None:
    one, path = opened(small, tmp_path / "run"), tmp_path / "weights.safetensors"
    for parameter in one.module.parameters():
        torch.nn.init.normal_(parameter)
    save_weights(one.module, path)
    other = one.task.build_module()
    assert load_initial(other, InitFrom(path=str(path)))[0].startswith("init_from: ")
    state = one.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())

    save_weights(one.module.model, path)  # of the model alone: the image encoder is missing
    with pytest.raises(UserError, match=r"conditioner\.encoder\.\S+ is missing"):
        load_initial(other, InitFrom(path=str(path)))
    lines = load_initial(other, InitFrom(path=str(path), partial=True))
    missing = [name for name in state if name.startswith("conditioner.")]
    assert len(lines) == 1 + len(missing) and all("is missing" in line for line in lines[1:])

    wider = opened(small, tmp_path / "wider", "model.channels=48").module
    with pytest.raises(UserError, match=r"the weights do not fit: .*and \d+ more\. Give the model"):
        load_initial(wider, InitFrom(path=str(path)))
    with pytest.raises(UserError, match="nowhere: no such weights file"):
        load_initial(other, InitFrom(path=str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["latents.run=nowhere"], "not a run directory"),
        (["latents.path=nowhere"], "make the latents with `threed-gen encode"),
        (["model.latent_channels=5"], "model.latent_channels: is 5, but the SS-VAE has 4"),
        (
            ["model.condition_channels=32"],
            "model.condition_channels: is 32, but the",
        ),
        (["data.resolutions=[24]"], "has no latents at resolution 24"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(
    small: corridor.Corridor, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError) as told:
        opened(small, tmp_path, *overrides)
    assert message in str(told.value) and "\n" not in str(told.value)


def test_another_vae_than_the_one_that_a_run_began_with(
    small: corridor.Corridor, tmp_path: Path
) -> None:
    one, path = opened(small, tmp_path), tmp_path / "sources.json"
    one.task.prepare(one.dataset, tmp_path)  # a resumed run finds the same one
    told = json.loads(path.read_text())
    told["ss_vae"]["sha256"] = "0" * 64
    path.write_text(json.dumps(told))
    with pytest.raises(UserError, match="began with step 5 of the SS-VAE"):
        one.task.prepare(one.dataset, tmp_path)
    path.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        one.task.prepare(one.dataset, tmp_path)


def test_validation_by_hand(small: corridor.Corridor, tmp_path: Path) -> None:
    """Its loss at its fixed times and noise, and the round trip of the true latents."""
    one = opened(small, tmp_path, "validation.surface_samples=1000", "validation.times=3")
    torch.nn.init.normal_(one.module.model.out_layer.weight, std=0.1)
    (shape,) = one.task.validate(
        one.task.weights_of(one.module.state_dict()), one.dataset, [1], torch.device("cpu")
    )
    samples, entry = one.task.samples(one.dataset), one.dataset.entry(1)
    batch = samples.pack([samples.fixed(1, 16)], [entry.id], [0])
    x0, losses = batch.latents.feats, []
    for k in range(3):
        drawn = generator(0, k, f"validation flow_noise of {entry.id}")
        noise, t = torch.randn(x0.shape, generator=drawn), (k + 0.5) / 3
        condition = one.module.conditioner(batch.shown)
        x_t = batch.latents.replace((1 - t) * x0 + t * noise)
        said = one.module.model(x_t, torch.tensor([t]), condition).feats
        losses.append((said - (noise - x0)).square().mean().item())
    assert shape.metrics["loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)

    truth = one.dataset.load(1, 16)
    again = reconstruct(load_vae(small.vae).model, truth, "cpu")
    found = next(panel for panel in shape.panels if panel.title == "VAE round trip").content
    expected = extract_mesh(drawable(again))
    assert isinstance(found, Mesh) and len(expected.vertices) > 0
    np.testing.assert_allclose(found.vertices, expected.vertices, atol=1e-4)


def test_weights_that_say_nothing_finite_are_judged_all_the_same(
    small: corridor.Corridor, tmp_path: Path
) -> None:
    """Validation of a run gone wrong: null in the journal, and pictures nonetheless."""
    one = opened(small, tmp_path, "validation.surface_samples=1000")
    weights = one.task.weights_of(one.module.state_dict())
    weights["model.out_layer.bias"] = torch.full_like(weights["model.out_layer.bias"], torch.nan)
    (shape,) = one.task.validate(weights, one.dataset, [0], torch.device("cpu"))
    assert shape.metrics["loss"] is None and shape.metrics["relative_l2"] is None
    assert shape.metrics["nonfinite_voxels"] > 0
    assert [panel.title for panel in shape.panels] == ["image", "truth", "VAE round trip", "sample"]
    json.dumps(shape.metrics, allow_nan=False)
    assert one.task.score({"loss": None}) is None and one.task.score({"loss": 2.0}) == -2.0
