"""The stage of views: the same bytes whatever happens on the way, and everything counted."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.folders import ListSource, TestAsset, procedural
from tests.data.gltf_builder import BALL, Builder
from threed_gen.cli import main
from threed_gen.data.config import DataConfig
from threed_gen.data.embedded import ensure_prepared
from threed_gen.data.index import ShardIndex
from threed_gen.data.payload import CorruptSampleError
from threed_gen.data.prepare import prepare
from threed_gen.data.ranks import Share
from threed_gen.data.source_kinds.folder import FolderSource
from threed_gen.data.sources import ProceduralAsset
from threed_gen.data.views.index import ViewIndex
from threed_gen.data.views.params import ViewParams
from threed_gen.data.views.stage import prepare_views
from threed_gen.data.views.view_set import ViewSet
from threed_gen.errors import UserError
from threed_gen.geometry.render.camera import cameras

PARAMS = ViewParams(count=3, size=24, supersample=1)
ALONE = Share()
SOURCE = ListSource(*procedural(0, 5, 2, 7).assets, TestAsset("flat", "flat"))


def products(out: Path) -> dict[str, bytes]:
    files = [out / name for name in ("views.jsonl", "views_rejects.jsonl", "views.png")]
    return {file.name: file.read_bytes() for file in [*files, *(out / "views").glob("*.tar")]}


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grids") / "out"
    prepare(SOURCE, out, [16], workers=0)
    return out


@pytest.fixture
def out(grids: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(grids, tmp_path / "out"))


@pytest.fixture(scope="module")
def expected(grids: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run gives; two shards."""
    out = Path(shutil.copytree(grids, tmp_path_factory.mktemp("whole") / "out"))
    draw(out)
    assert len(list((out / "views").glob("*.tar"))) == 2
    return products(out)


def draw(out: Path, params: ViewParams = PARAMS, share: Share = ALONE, workers: int = 0) -> int:
    done = prepare_views(SOURCE, out, params, workers=workers, share=share, shard_bytes=12_000)
    return done.open


def test_what_is_stored_is_what_was_drawn(out: Path, expected: dict[str, bytes]) -> None:
    before = {
        file: file.stat().st_mtime_ns for file in [out / "index.jsonl", *out.glob("shards/*")]
    }
    assert draw(out) == 0
    assert products(out) == expected, "a second run, the same bytes"
    assert before == {file: file.stat().st_mtime_ns for file in before}, "grids stay as they are"
    views = pickle.loads(pickle.dumps(ViewSet(out)))
    index = ShardIndex.load(out)
    assert views.samples == [sample.id for sample in index.samples] and len(views.samples) == 4
    colors = set()
    for sample in index.samples:
        assert views.count(sample.id) == 3
        shots = [views.load(sample.id, number) for number in range(3)]
        assert len({shot.sha256 for shot in shots}) == 3
        for shot in shots:
            assert shot.rgba.shape == (24, 24, 4) and 0.05 < (shot.rgba[..., 3] > 0).mean() < 0.9
            edge = np.concatenate([shot.rgba[0], shot.rgba[-1], shot.rgba[:, 0], shot.rgba[:, -1]])
            assert edge[:, 3].mean() < 60
        mesh = next(asset for asset in SOURCE if asset.id == sample.id).load().mesh
        low, high = mesh.bounds
        sides = 0.95 * (high - low) / (high - low).max()
        for shot, law in zip(
            shots, cameras("trellis", sample.source_sha256, 3, sides), strict=True
        ):
            assert np.allclose(shot.camera.eye, law.eye) and shot.camera.fov == law.fov
        body = shots[0].rgba[shots[0].rgba[..., 3] == 255]
        colors.add(tuple(np.argsort(body[:, :3].mean(axis=0))))
    assert len(colors) > 1, "procedural shapes differ in colour"


def test_pictures_are_plain_members_of_a_tar(out: Path) -> None:
    draw(out)
    sample = ViewIndex.load(out).samples[0]
    shard = out / "views" / sample.shard
    with tarfile.open(shard) as tar:
        member = tar.getmember(f"{sample.id}/view_001.webp")
        assert (member.offset_data, member.size) == (sample.views[1].offset, sample.views[1].size)
    assert not [path for path in (out / "views" / "work").iterdir() if path.is_dir()]


@pytest.mark.parametrize("workers", [2, pytest.param(1, marks=pytest.mark.long)])
def test_workers_make_no_difference(out: Path, expected: dict[str, bytes], workers: int) -> None:
    assert draw(out, workers=workers) == 0
    assert products(out) == expected


def test_ranks_share_the_work_and_the_last_one_packs(out: Path, expected: dict[str, bytes]) -> None:
    assert draw(out, share=Share(1, 2)) > 0
    assert not (out / "views.jsonl").exists()
    assert draw(out, share=Share(0, 2)) == 0
    assert products(out) == expected


def test_grids_that_are_still_open_are_waited_for(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    for rank in (0, 1):
        prepare(SOURCE, out, [16], workers=0, share=Share(rank, 2))
        assert (draw(out, share=Share(rank, 2)) == 0) == (rank == 1)
    assert products(out) == expected


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.long)])
def test_death_at_durable_steps(
    grids: Path, tmp_path: Path, expected: dict[str, bytes], every: int, fresh: bool
) -> None:
    """Also when a set has grown and is packed anew over its old shards."""
    if not fresh:
        smaller = procedural(5, 7)
        grids = tmp_path / "grown"
        prepare(smaller, grids, [16], workers=0)
        prepare_views(smaller, grids, PARAMS, workers=0)
        prepare(SOURCE, grids, [16], workers=0)
    real = os.fsync
    step, status = 0, 9
    while status == 9:
        step += every
        out = Path(shutil.copytree(grids, tmp_path / str(step)))

        def dying(limit: int = step, path: Path = out) -> None:
            count = [0]

            def fsync(handle: int) -> None:
                count[0] += 1
                if count[0] == limit and limit % 2 == 0:  # before it is durable, or after
                    os._exit(9)
                real(handle)
                if count[0] == limit:
                    os._exit(9)

            os.fsync = fsync  # type: ignore[assignment]  # only in the forked child
            draw(path)

        status = _in_child(dying)
        if (out / "views.jsonl").exists():  # then what it lists is there
            views = ViewSet(out)
            for sample in views.samples:
                views.load(sample, 2)
        assert draw(out) == 0
        assert products(out) == expected, f"after a death at step {step}"
        assert not list(out.rglob("*.tmp"))
        shutil.rmtree(out)
    assert status == 0 and step > 10


def _in_child(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # the child must never return into pytest
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_damage_is_named_and_mended(out: Path, expected: dict[str, bytes]) -> None:
    draw(out)
    sample = ViewIndex.load(out).samples[0]
    shard = out / "views" / sample.shard
    content = bytearray(shard.read_bytes())
    content[sample.views[2].offset + 9] ^= 1
    shard.write_bytes(content)
    views = ViewSet(out)
    views.load(sample.id, 1)
    with pytest.raises(CorruptSampleError, match=f"{sample.shard}: view 2 of sample '{sample.id}'"):
        views.load(sample.id, 2)
    shard.unlink()
    with pytest.raises(CorruptSampleError, match="missing"):
        views.load(sample.id, 0)
    assert draw(out) == 0
    assert products(out) == expected
    index = out / "views.jsonl"
    index.write_bytes(index.read_bytes().replace(b'"fov":', b'"fov": ', 1))
    with pytest.raises(UserError, match="damaged.*checksum"):
        ViewSet(out)
    assert draw(out) == 0
    shutil.rmtree(out / "views" / "work")  # the index stands in for the ledgers
    assert draw(out) == 0
    assert products(out) == expected


def test_other_parameters_are_refused_with_the_cure(out: Path, expected: dict[str, bytes]) -> None:
    draw(out)
    more = ViewParams(count=4, size=24, supersample=1)
    with pytest.raises(UserError, match=r"views: was made with count = 3, now it is 4; .*delete"):
        draw(out, more)
    assert products(out) == expected
    shutil.rmtree(out / "views")  # the cure
    assert draw(out, more) == 0
    assert ViewSet(out).count(ViewSet(out).samples[0]) == 4


def test_a_sample_that_cannot_be_drawn_is_counted_and_named(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ProceduralAsset.paint

    def paint(self: ProceduralAsset) -> object:
        if self.index == 5:
            raise RuntimeError("no paint left")
        return real(self)

    monkeypatch.setattr(ProceduralAsset, "paint", paint)
    done = prepare_views(SOURCE, out, PARAMS, workers=0)
    assert (done.samples, done.bad, done.open) == (3, {"unexpected_error": 1}, 0)
    (line,) = (out / "views_rejects.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["message"] == "RuntimeError: no paint left"
    with pytest.raises(UserError, match=f"'{row['id']}' has no views"):
        ViewSet(out).count(row["id"])
    with pytest.raises(UserError, match="there is no number 3"):
        ViewSet(out).load(ViewSet(out).samples[0], 3)


def test_without_views_the_cure_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--views 24"):
        ViewSet(tmp_path)
    for bad in ({"count": 0}, {"size": 4}, {"law": "other"}, {"supersample": 0}):
        with pytest.raises(UserError, match="views: "):
            ViewParams(**bad)  # type: ignore[arg-type]
    assert ViewParams(law="paper").pixels == 1024 and ViewParams().pixels == 512


def test_a_changed_file_gets_new_views_and_textures_are_flagged(tmp_path: Path) -> None:
    folder = tmp_path / "meshes"
    folder.mkdir()

    def write(color: float) -> None:
        scene = Builder()
        rough = {"baseColorTexture": {"index": 0}, "baseColorFactor": [color, 0, 0, 1]}
        scene.add("materials", {"pbrMetallicRoughness": rough})
        scene.add("images", {"uri": "../secret.png"} if color else {"uri": "gone.png"})
        scene.add("textures", {"source": 0})
        scene.node(mesh=scene.mesh(BALL, material=0))
        (folder / "ball.glb").write_bytes(scene.glb())

    line = ["prepare", str(folder), str(tmp_path / "out"), "--resolution", "16", "--workers", "0"]
    line += ["--no-report", "--views", "2", "--view-size", "16"]
    hashes = []
    for color in (0.0, 1.0):
        write(color)
        assert main(line) == 0
        hashes.append(ViewIndex.load(tmp_path / "out").samples[0].views[0].sha256)
    assert hashes[0] != hashes[1]
    assert ViewIndex.load(tmp_path / "out").samples[0].flags == ("texture_outside",)
    done = prepare_views(FolderSource(folder), tmp_path / "out", ViewParams(2, size=16), workers=0)
    assert (done.built, done.flags) == (0, {"texture_outside": 1})


def test_options_belong_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["prepare", "procedural:1", str(tmp_path), "--resolution", "16", "--view-size", "16"]
    assert main(line) == 2
    assert "give --views N" in capsys.readouterr().err
    assert not (tmp_path / "prepare.json").exists()


def test_the_embedded_set_has_views_on_demand(tmp_path: Path) -> None:
    config = DataConfig(resolutions=[16], procedural={"count": 2})  # type: ignore[arg-type]
    out = Path(ensure_prepared(config, tmp_path, workers=0))
    assert not (out / "views.jsonl").exists()
    assert ensure_prepared(config, tmp_path, workers=0, views=PARAMS) == str(out)
    assert len(ViewSet(out).samples) == 2
