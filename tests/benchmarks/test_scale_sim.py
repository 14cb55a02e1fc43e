"""Scaling on paper: closed forms against known values, simulations against closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import scale_sim
from benchmarks.scale_models import ss_dit_forward, ss_dit_linear
from benchmarks.scale_parts import (
    Links,
    best_interval,
    communication,
    goodput,
    half,
    mean_time_between_stops,
    ring_half,
    sent,
    young,
    zero_halves,
)
from benchmarks.scale_sim import GPUS
from benchmarks.scale_simulation import HERE, Inputs, plan_imbalance, simulate, simulated_goodput
from launcher.assignment import deal

LINKS = Links(intra=100.0, inter=10.0, intra_latency=0.5, inter_latency=2.0, per_node=8, bucket=1e9)


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return Inputs()


def test_a_ring_by_hand() -> None:
    """800 bytes over 8 ranks at 100 bytes/s: 7 pieces of 100 bytes, 7 hops."""
    assert ring_half(800, 8, 100, 0.5) == 7 * 1 + 7 * 0.5
    assert ring_half(800, 8, 100, 0.5, calls=3) == 7 * 1 + 3 * 7 * 0.5
    assert ring_half(800, 1, 100, 0.5) == 0


def test_between_nodes_the_faster_way_is_taken() -> None:
    """One ring of 16 is as slow as the network; two levels send an eighth over it."""
    flat = ring_half(1600, 16, 10, 2)
    levels = ring_half(1600, 8, 100, 0.5) + ring_half(200, 2, 10, 2)
    assert half(1600, 16, LINKS) == levels < flat
    assert half(1600, 8, LINKS) == ring_half(1600, 8, 100, 0.5)
    assert half(1600, 1, LINKS) == 0


@pytest.mark.parametrize(
    ("stage", "accumulation", "halves"),
    [(0, 1, 2), (1, 1, 2), (2, 1, 2), (3, 1, 3), (1, 4, 2), (2, 4, 5), (3, 4, 12)],
)
def test_what_zero_sends(stage: int, accumulation: int, halves: int) -> None:
    """2 Ψ and 3 Ψ of the paper, and what accumulation makes of them."""
    assert zero_halves(stage, accumulation) == halves
    assert sent(100, 4, stage, accumulation, 8) == halves * 400 * 7 / 8
    assert communication(100, 4, stage, accumulation, 1, LINKS) == 0


def test_stops_as_in_the_paper() -> None:
    """419 in 54 days on 16,384 GPUs: one in 3.1 hours there, one in 4 days on 512."""
    assert mean_time_between_stops(16_384, 419, 54, 16_384) / 3600 == pytest.approx(3.093, abs=1e-3)
    assert mean_time_between_stops(512, 419, 54, 16_384) / 86_400 == pytest.approx(4.12, abs=0.01)


def test_the_best_interval_is_youngs_where_saving_is_short() -> None:
    assert young(2, 10_000) == 200
    assert best_interval(2, 0, 1e7) == pytest.approx(young(2, 1e7), rel=0.01)
    best = best_interval(30, 100, 40_000)
    for other in (best / 2, best * 0.9, best * 1.1, best * 2):
        assert goodput(other, 30, 100, 40_000) < goodput(best, 30, 100, 40_000)
    assert goodput(600, 0, 0, 1e12) == pytest.approx(1)
    assert goodput(600, 60, 0, 1e12) == pytest.approx(600 / 660)


@pytest.mark.parametrize("numbers", [(600, 30, 200, 5000), (3000, 100, 900, 4000)])
def test_goodput_as_drawn(numbers: tuple[float, float, float, float]) -> None:
    """The closed form against stops that are drawn one by one."""
    assert simulated_goodput(*numbers, 20_000, 1) == pytest.approx(goodput(*numbers), rel=0.01)


def test_the_imbalance_is_the_plans() -> None:
    """Two shapes on two GPUs, worked out by hand; equal shapes are even."""
    assert plan_imbalance((5,), 8, 4, 8) == (1.0, 1.0)
    mean, worst = plan_imbalance((1, 3), 2, 1, 8)
    assert worst == 1.5, "3 of 4 tokens: 3 / 2"
    assert 1 < mean <= 1.5
    assert deal([9, 1, 1, 7], 2) == [[0], [1, 2, 3]]
    tokens = (5944, 8900, 9816, 11300, 16000, 15000, 14700, 18600)
    means = [plan_imbalance(tokens, 8, samples, 8)[0] for samples in (1, 4, 16)]
    assert means[0] > means[1] > means[2] > 1


def test_one_gpu_waits_for_nobody(inputs: Inputs) -> None:
    step = simulate(inputs, inputs.models["ss_dit"], 1, 3, 0.4)
    assert (step.imbalance, step.exposed) == (1, 0)
    assert step.total == step.compute + inputs.value("step_overhead")


def test_steps_behave(inputs: Inputs) -> None:
    model = inputs.models["ss_dit"]
    steps = {mfu: simulate(inputs, model, 64, 2, mfu) for mfu in (0.2, 0.4)}
    assert steps[0.2].compute == pytest.approx(2 * steps[0.4].compute)
    slow = inputs.changed("inter_bytes", 1e8)
    exposed = [simulate(slow, model, 64, stage, 0.4).exposed for stage in range(4)]
    assert 0 < exposed[0] == exposed[1] == exposed[2] < exposed[3]
    assert simulate(slow, {**model, "accumulation": 4}, 64, 2, 0.4).exposed != exposed[2]
    waits = [simulate(slow, model, gpus, 2, 0.4).exposed for gpus in GPUS]
    assert waits == sorted(waits)
    assert inputs.value("inter_bytes") == 5e10, "the inputs themselves stay as they are"


def test_the_linear_layers_are_those_of_the_model(inputs: Inputs) -> None:
    """Counted by hand against the weights that the model has."""
    import torch

    from threed_gen.models.ss_dit import SSDiT, release_1_1

    with torch.device("meta"):
        model = SSDiT(release_1_1())
    per_token = sum(
        weight.numel()
        for name, weight in model.blocks.named_parameters()
        if weight.ndim == 2 and not any(part in name for part in ("adaLN", "modulation", "to_kv."))
    )
    assert ss_dit_linear() / 2 == pytest.approx(per_token, rel=0.02)
    ssa = inputs.document["ssa"]
    one, two = ss_dit_forward(10_000, ssa), ss_dit_forward(20_000, ssa)
    assert 2 * one * 0.99 < two < 2.5 * one, "little more than in proportion to the tokens"


def test_the_report_says_what_it_is(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale_sim, "GPUS", (8, 64))
    found = scale_sim.tables(inputs)
    text = scale_sim.markdown(found, "today")
    assert "**Simulated, not measured: no GPU was used.**" in text
    assert [title for title, _, _ in found].index("Inputs") == 0
    assert {row[3] for row in found[0][2]} == {"measured", "counted", "published", "assumed"}
    assert not any(math.isnan(float(row[2])) for row in found[1][2])
    for _, header, rows in found:
        assert all(len(row) == len(header) for row in rows)
    assert scale_sim.as_csv(found).count("simulated: ") == len(found) - 1


def test_an_input_without_a_source_is_an_error(tmp_path: Path) -> None:
    path = HERE / "scale_sim.yaml"
    text = path.read_text(encoding="utf-8")
    (tmp_path / "a.yaml").write_text(text.replace('source: "the same"', 'source: ""'))
    with pytest.raises(AssertionError, match="say where it is from"):
        Inputs(tmp_path / "a.yaml")
