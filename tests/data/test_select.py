"""Licences, selections, splits and the filter of a run: what is left out, and what is said."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.folders import ListSource, TestAsset
from threed_gen.data.config import DataConfig, FilterConfig
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.index import ShardIndex
from threed_gen.data.source_kinds.licences import canonical
from threed_gen.data.sources import ProceduralSource, SelectedSource, Selection, Tag
from threed_gen.data.split import split_of
from threed_gen.errors import UserError

# --- licences ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "licences"),
    [
        ("CC-BY", ["by", "CC BY 4.0", "cc-by-3.0", "Creative Commons - Attribution",
                   "https://creativecommons.org/licenses/by/4.0/", "CC_BY",
                   "Creative Commons Attribution 4.0 International"]),
        ("CC-BY-NC-SA", ["by-nc-sa", "CC BY-NC-SA 4.0",
                         "Creative Commons - Attribution - Non-Commercial - Share Alike"]),
        ("CC-BY-NC-ND", ["by-nc-nd", "CC-BY-NC-ND-4.0",
                         "Creative Commons Attribution-NonCommercial-NoDerivs"]),
        ("CC-BY-SA", ["by-sa", "Creative Commons - Attribution - Share Alike"]),
        ("CC-BY-NC", ["by-nc", "Creative Commons - Attribution - NonCommercial"]),
        ("CC0", ["cc0", "CC0 1.0", "CC0-1.0", "Creative Commons Zero v1.0 Universal",
                 "Creative Commons - Public Domain Dedication",
                 "http://creativecommons.org/publicdomain/zero/1.0/"]),
        ("mit license", ["MIT License", " mit  license"]),
    ],
)  # fmt: skip
def test_one_name_for_each_licence(name: str, licences: list[str]) -> None:
    assert {licence: canonical(licence) for licence in [*licences, name]} == dict.fromkeys(
        [*licences, name], name
    )


def test_other_licences_stay_apart() -> None:
    others = ["GPL", "Apache License 2.0", "Sketchfab Standard", "Editorial", "bypass", "ccx", ""]
    assert not {canonical(name) for name in others} & {"CC-BY", "CC0"}


# --- selection --------------------------------------------------------------------------------

ASSETS = [
    TestAsset("a", licence="by", tags={"score": 6.0, "is_scene": 0.0}),
    TestAsset("b", licence="CC BY-NC 4.0", tags={"score": 7.0}),
    TestAsset("c", licence="CC0", tags={"score": 5.0, "is_scene": 1.0}),
    TestAsset("d", licence=None, tags={"score": 9.0}),
    TestAsset("e", licence="CC-BY-4.0", tags={"is_transparent": "yes"}),
    TestAsset("f", licence="cc0", tags={"score": 5.5, "is_scene": "false"}),
]


@pytest.mark.parametrize(
    ("rules", "kept", "left_out"),
    [
        (Selection(licences=("CC-BY", "CC0")), "acef", {"licence": 2}),
        (Selection(min_score=5.5), "abdf", {"score": 1, "no score": 1}),
        (Selection(exclude=("is_scene", "is_transparent")), "abdf",
         {"is_scene": 1, "is_transparent": 1}),
        (Selection(limit=2), "ab", {"limit": 4}),
        (Selection(("CC-BY", "CC0"), 5.5, ("is_scene",), 1), "a", {"limit": 5}),
        (Selection(("CC-BY", "CC0"), 5.5, ("is_scene",), 2), "af",
         {"licence": 2, "score": 1, "no score": 1}),
        (Selection(limit=100), "abcdef", {}),
    ],
)  # fmt: skip
def test_each_rule_leaves_out_what_it_says(
    rules: Selection, kept: str, left_out: dict[str, int]
) -> None:
    source = SelectedSource(ListSource(*ASSETS), rules)
    assert "".join(asset.id for asset in source) == kept
    assert source.left_out == left_out
    assert len(source) == len(kept) == len(ASSETS) - sum(left_out.values())
    assert str(source).startswith(f"{len(kept)} of 6 assets")
    assert all(f"{rule} {count}" in str(source) for rule, count in left_out.items())
    assert source.describe() == {"kind": "list"}


def test_a_selection_that_cannot_be_is_said() -> None:
    for rules, message in (
        (Selection(licences=("GPL",)), r"leaves nothing: 0 of 6 assets \(left out: licence 6\)"),
        (Selection(exclude=("is_scnee",)), "no asset has such a tag .*is_scene"),
    ):
        with pytest.raises(UserError, match=message):
            SelectedSource(ListSource(*ASSETS), rules)
    for bad in ({"limit": 0}, {"min_score": float("nan")}):
        with pytest.raises(UserError, match="must be"):
            Selection(**bad)  # type: ignore[arg-type]


def test_a_limit_stops_the_listing_early() -> None:
    class Long(ProceduralSource):
        asked = 0

        def __iter__(self):  # type: ignore[no-untyped-def]
            for asset in super().__iter__():
                Long.asked += 1
                yield asset

    assert len(SelectedSource(Long(1000), Selection(limit=3))) == 3
    assert Long.asked == 4


# --- split ------------------------------------------------------------------------------------


def test_the_split_never_changes() -> None:
    # Written down once: another hash would move samples between training and evaluation.
    held_out = [f"mug_{n:04d}" for n in range(200) if split_of(f"mug_{n:04d}", 0.05) == "held_out"]
    assert held_out == HELD_OUT


HELD_OUT = ["mug_0012", "mug_0046", "mug_0176", "mug_0193"]


def test_the_split_depends_on_id_and_share_alone() -> None:
    ids = [f"{random.Random(n).getrandbits(128):032x}" for n in range(20_000)]
    share = {
        s: {i for i in ids if split_of(i, s) == "held_out"} for s in (0.0, 0.02, 0.1, 0.5, 1.0)
    }
    for wanted, found in share.items():
        assert abs(len(found) / len(ids) - wanted) < 0.01
    assert share[0.0] == set() and len(share[1.0]) == len(ids)
    assert share[0.02] < share[0.1] < share[0.5]  # a larger share only adds
    assert split_of("Größe\udcff", 1.0) == "held_out"
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_of("a", 1.5)


# --- the filter of a run ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples with all that a filter looks at."""
    from threed_gen.data.prepare import prepare

    out = tmp_path_factory.mktemp("data")
    prepare(ProceduralSource(6), out, [16, 32], workers=0)
    index = ShardIndex.load(out)
    shares = [(0.0, 0.0), (0.1, 0.0), (0.9, 0.0), (0.0, 0.3), (0.2, 0.2), (0.0, 0.0)]
    licences = ["CC-BY", "CC BY 4.0", None, "CC0", "by-nc", "CC-BY"]
    tags: list[dict[str, Tag]] = [
        {"score": 1.0}, {"score": 2.0}, {"score": 3.0}, {}, {"score": 4.0, "is_scene": 1.0}, {},
    ]  # fmt: skip
    rows = [
        replace(
            sample,
            licence=licences[n],
            tags=tags[n],
            flags=("skinned",) if n == 5 else (),
            split="held_out" if n in (1, 4) else "train",
            info={
                "grids": {
                    "16": {"sheet_share": shares[n][0] / 2, "interior_share": 0.0},
                    "32": {"sheet_share": shares[n][0], "interior_share": shares[n][1]},
                }
            },
        )
        for n, sample in enumerate(index.samples)
    ]
    replace(index, samples=rows).save(out)
    return out


@pytest.mark.parametrize(
    ("rules", "kept", "left_out"),
    [
        ({}, [0, 1, 2, 3, 4, 5], {}),
        ({"max_sheet_share": 0.1}, [0, 1, 3, 5], {"max_sheet_share": 2}),
        ({"max_interior_share": 0.2}, [0, 1, 2, 4, 5], {"max_interior_share": 1}),
        ({"min_score": 2.0}, [1, 2, 4], {"min_score": 3}),
        ({"licences": ["CC-BY"]}, [0, 1, 5], {"licences": 3}),
        ({"exclude_flags": ["is_scene", "skinned"]}, [0, 1, 2, 3],
         {"exclude_flags.is_scene": 1, "exclude_flags.skinned": 1}),
        ({"split": "train"}, [0, 2, 3, 5], {"split": 2}),
        ({"split": "held_out"}, [1, 4], {"split": 4}),
        ({"split": "train", "max_sheet_share": 0.5, "min_score": 0.0}, [0],
         {"split": 2, "max_sheet_share": 1, "min_score": 2}),
    ],
)  # fmt: skip
def test_the_data_set_is_what_passes(
    data: Path, rules: dict[str, object], kept: list[int], left_out: dict[str, int]
) -> None:
    whole = SDFDataset(data)
    part = SDFDataset(data, rules=FilterConfig.model_validate(rules))
    assert len(part) == len(kept)
    assert part.left_out == left_out
    assert [part.entry(i) for i in range(len(part))] == [whole.entry(n) for n in kept]
    for resolution in (16, 32):
        for numbers in (SDFDataset.token_counts, SDFDataset.shard_numbers):
            assert numbers(part, resolution).tolist() == numbers(whole, resolution)[kept].tolist()
    last = part.load(len(part) - 1, 32)
    assert (last.values == whole.load(kept[-1], 32).values).all()


def test_no_rules_change_nothing(data: Path) -> None:
    plain, unset = SDFDataset(data), SDFDataset(data, None, FilterConfig())
    assert unset.index == plain.index and unset.left_out == {}
    assert DataConfig().filter == FilterConfig()


def test_a_share_of_the_run_overrules_the_index(data: Path) -> None:
    whole = SDFDataset(data)
    ids = [sample.id for sample in whole.index.samples]
    for share in (0.3, 0.6):
        rules = FilterConfig(split="held_out", held_out_share=share)
        wanted = [name for name in ids if split_of(name, share) == "held_out"]
        assert [s.id for s in SDFDataset(data, rules=rules).index.samples] == wanted != []


def test_a_filter_that_leaves_nothing_tells_why(data: Path) -> None:
    rules = FilterConfig(split="train", min_score=2.5, licences=["CC0"])
    with pytest.raises(UserError, match=r"none of the 6 samples: licences 3, split 2, min_score 1"):
        SDFDataset(data, rules=rules)


def test_what_the_index_does_not_say_is_left_out_by_name(data: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(data, tmp_path / "old")
    index = ShardIndex.load(data)
    bare = [replace(sample, info={}) for sample in index.samples]
    replace(index, samples=bare).save(tmp_path / "old")
    with pytest.raises(UserError, match=r"max_sheet_share \(not in the index\) 6"):
        SDFDataset(tmp_path / "old", rules=FilterConfig(max_sheet_share=1.0))


def test_validation_prefers_what_is_held_out(data: Path) -> None:
    train = SDFDataset(data, rules=FilterConfig(split="train", max_sheet_share=0.15))
    held_out = train.for_validation()
    assert [s.split for s in held_out.index.samples] == ["held_out"]  # the other has 0.2
    nothing = SDFDataset(data, rules=FilterConfig(split="train", held_out_share=0.0))
    assert nothing.for_validation() is nothing
    everything = SDFDataset(data)
    assert everything.for_validation() is everything
    assert held_out.for_validation() is held_out


def test_the_plan_of_an_epoch_sees_the_filtered_list(data: Path) -> None:
    from threed_gen.training.loader import StepDataset
    from threed_gen.training.run_config import SSVAERun
    from threed_gen.training.tasks.ss_vae import SSVAETask

    rules = FilterConfig(split="train")
    config = SSVAERun(task="ss_vae", data=DataConfig(resolutions=[16], filter=rules))
    dataset = SDFDataset(data, rules=config.data.filter)
    steps = StepDataset(config, SSVAETask(config).samples(dataset), 0, 1)
    seen = [name for step in range(8) for batch in steps[step].micro for name in batch.names]
    names = sorted(
        sample.id for sample in SDFDataset(data).index.samples if sample.split == "train"
    )
    assert sorted(seen[:4]) == sorted(seen[4:]) == names


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"max_shet_share": 0.1}, "did you mean 'max_sheet_share'"),
        ({"max_sheet_share": 2.0}, "less than or equal to 1"),
        ({"licences": []}, "give at least one"),
        ({"held_out_share": 0.1}, "no effect while split is all"),
        ({"split": "test"}, "held_out"),
    ],
)
def test_wrong_rules_are_refused(rules: dict[str, object], message: str) -> None:
    from threed_gen.config import validate

    with pytest.raises(UserError, match=message):
        validate(DataConfig, {"filter": rules}, "c.yaml")
