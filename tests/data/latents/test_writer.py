"""Latents written once, in pieces, killed, by two at once, or onto a full disk: the same bytes."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.latents.sets import made_up, make_data, params_for, products
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.latents.index import LatentIndex
from threed_gen.data.latents.latent import Latent
from threed_gen.data.latents.statistics import LatentStatistics
from threed_gen.data.latents.writer import Written, write_latents
from threed_gen.data.locks import locked
from threed_gen.data.payload import CorruptSampleError
from threed_gen.errors import DiskError, UserError

COUNT = 12
BAD = "s4"  # its latent is not finite at one of its resolutions


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SDFDataset:
    return make_data(tmp_path_factory.mktemp("data"), COUNT)


def with_a_nan(dataset: SDFDataset, i: int, resolution: int) -> Latent:
    latent = made_up(dataset, i, resolution)
    if dataset.entry(i).id == BAD and resolution == 64:
        latent.mean[5, 1] = np.nan
    return latent


def write(dataset: SDFDataset, out: Path, pause: float = 0.0) -> Written:
    def encode(i: int, resolution: int) -> Latent:
        time.sleep(pause)
        return with_a_nan(dataset, i, resolution)

    return write_latents(out, dataset, params_for(dataset), encode)


@pytest.fixture(scope="module")
def whole(dataset: SDFDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run gives: several shards of several samples each."""
    out = tmp_path_factory.mktemp("whole")
    write(dataset, out)
    found = products(out)
    assert sum(name.endswith(".tar") for name in found) >= 4
    return found


def test_what_is_written(dataset: SDFDataset, whole: dict[str, bytes], tmp_path: Path) -> None:
    written = write(dataset, tmp_path)
    assert products(tmp_path) == whole
    assert written.encoded == COUNT
    index = LatentIndex.load(tmp_path)
    assert index == written.index
    assert [s.id for s in index.samples] == [f"s{i}" for i in range(COUNT) if f"s{i}" != BAD]
    assert [(r.id, r.reason) for r in index.rejects] == [(BAD, "not_finite")]
    assert "'s4' at resolution 64: the latent's mean is not finite in 1 of" in (
        index.rejects[0].message
    )
    sizes = []
    for shard in index.shards:
        with tarfile.open(tmp_path / "latents" / shard.file) as tar:
            members = {member.name: member for member in tar}
        own = [(s, r, g) for s in index.samples for r, g in s.grids.items() if g.shard == shard.file]  # fmt: skip  # noqa: E501
        assert list(members) == [f"{s.id}/r{r}.latent.zst" for s, r, _ in own]
        assert [(m.offset_data, m.size) for m in members.values()] == [
            (grid.offset, grid.size) for _, _, grid in own
        ]
        sizes.append(shard.size)
    assert max(sizes) <= 9000 + 10240  # a sample of its own, or within what was asked
    table = json.loads((tmp_path / "latents.jsonl").read_text().splitlines()[1])
    latents = [made_up(dataset, i, r) for i in range(COUNT) if f"s{i}" != BAD for r in (32, 64)]
    tokens = np.concatenate([x.mean for x in latents]).astype(np.float64)
    np.testing.assert_allclose(table["statistics"]["mode"]["mean"], tokens.mean(0), rtol=1e-12)
    np.testing.assert_allclose(table["statistics"]["mode"]["std"], tokens.std(0), rtol=1e-12)
    assert table["statistics"]["sample"]["tokens"] == len(tokens) == index.tokens
    again = LatentStatistics.from_json(table["statistics"]["mode"])
    assert again.to_json() == table["statistics"]["mode"]  # no bit is lost in the text


def test_a_second_run_does_nothing_and_a_lost_shard_is_made_again_alone(
    dataset: SDFDataset, whole: dict[str, bytes], tmp_path: Path
) -> None:
    write(dataset, tmp_path)
    before = (tmp_path / "latents.jsonl").stat().st_mtime_ns
    assert write(dataset, tmp_path).encoded == 0
    assert (tmp_path / "latents.jsonl").stat().st_mtime_ns == before
    (tmp_path / "latents" / "shard-000001.tar").unlink()
    with (tmp_path / "latents" / "shard-000003.tar").open("ab") as file:
        file.write(b"x")
    assert 0 < write(dataset, tmp_path).encoded < COUNT - 3
    assert products(tmp_path) == whole
    (tmp_path / "latents.jsonl").unlink()
    part = tmp_path / "latents" / "shard-000002.json"
    part.write_bytes(part.read_bytes().replace(b"tokens", b"tokenz", 1))
    write(dataset, tmp_path)
    assert products(tmp_path) == whole


def test_no_index_describes_shards_that_are_being_made_again(
    dataset: SDFDataset, tmp_path: Path
) -> None:
    write(dataset, tmp_path)
    (tmp_path / "latents" / "shard-000001.tar").unlink()

    def interrupted(i: int, resolution: int) -> Latent:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_latents(tmp_path, dataset, params_for(dataset), interrupted)
    assert not (tmp_path / "latents.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights_sha256": "1" * 64}, "weights_sha256 = 0000"),
        ({"values": "fp16"}, "values = fp32, now it is fp16"),
        ({"resolutions": (64,)}, "resolutions = 32, 64, now it is 64"),
        ({"shard_bytes": 1}, "shard_bytes"),
        ({"source_sha256": "f" * 64}, "source_sha256"),
    ],
)
def test_other_parameters_are_refused(
    dataset: SDFDataset, whole: dict[str, bytes], tmp_path: Path, change: dict[str, object],
    words: str,
) -> None:  # fmt: skip
    write(dataset, tmp_path)

    def never(i: int, resolution: int) -> Latent:
        raise AssertionError("nothing may be encoded")

    with pytest.raises(UserError, match=f"{words}.*choose another --out"):
        write_latents(tmp_path, dataset, params_for(dataset, **change), never)
    assert products(tmp_path) == whole
    # The same data and run under other names are the same.
    other = params_for(dataset, data="elsewhere", run="moved")
    assert write_latents(tmp_path, dataset, other, never).encoded == 0


def test_two_at_once_are_refused(dataset: SDFDataset, tmp_path: Path) -> None:
    with (
        locked(tmp_path / "latents" / "work" / "rank.0-of-1.lock", {}),
        pytest.raises(UserError, match=f"another `encode` is writing.*process {os.getpid()}"),
    ):
        write(dataset, tmp_path)


def test_nothing_but_rejects_is_an_error(dataset: SDFDataset, tmp_path: Path) -> None:
    def hopeless(i: int, resolution: int) -> Latent:
        latent = made_up(dataset, i, resolution)
        latent.mean[:] = np.inf
        return latent

    with pytest.raises(UserError, match=f"all {COUNT} were rejected.*'s0' at resolution 32"):
        write_latents(tmp_path, dataset, params_for(dataset), hopeless)
    assert not (tmp_path / "latents.jsonl").exists()


def test_a_damaged_shape_stops_or_is_left_out(tmp_path: Path) -> None:
    dataset = make_data(tmp_path / "data", 4)
    grid = dataset.entry(2).grids[64]
    shard = tmp_path / "data" / "shards" / grid.shard
    content = bytearray(shard.read_bytes())
    content[grid.offset + 50] ^= 1
    shard.write_bytes(content)

    def encode(i: int, resolution: int) -> Latent:
        return made_up(dataset, i, resolution)

    params = params_for(dataset)
    with pytest.raises(CorruptSampleError, match="sample 's2' at resolution 64"):
        write_latents(tmp_path / "out", dataset, params, encode)
    assert not (tmp_path / "out" / "latents.jsonl").exists()
    index = write_latents(tmp_path / "out", dataset, params, encode, "substitute").index
    assert [sample.id for sample in index.samples] == ["s0", "s1", "s3"]
    assert [(r.id, r.reason) for r in index.rejects] == [("s2", "corrupt")]
    assert LatentIndex.load(tmp_path / "out") == index


def _in_child(work: Callable[[], object]) -> int:
    """Process id of a forked child that does `work`, and nothing of what pytest does."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            work()
        except BaseException:  # the child must never return into pytest
            os._exit(1)
        os._exit(0)
    return child


pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def test_death_at_every_durable_step(tmp_path: Path) -> None:
    """Every write ends in fsync: die before each of them in turn, then go on."""
    dataset = make_data(tmp_path / "data", 6)
    write(dataset, tmp_path / "whole")
    whole = products(tmp_path / "whole")
    shards = len(_parts(whole))
    assert shards >= 2
    real, step, status = os.fsync, 0, 9
    while status == 9:
        step += 1
        out = tmp_path / str(step)

        def dying(limit: int = step, path: Path = out) -> None:
            count = [0]

            def fsync(handle: int) -> None:
                count[0] += 1
                if count[0] == limit:
                    os._exit(9)
                real(handle)

            os.fsync = fsync  # type: ignore[assignment]  # only in the forked child
            write(dataset, path)

        status = os.waitstatus_to_exitcode(os.waitpid(_in_child(dying), 0)[1])
        # A file and its folder each: a shard, the list of it, … and last the index.
        assert (out / "latents.jsonl").exists() == (step > 4 * shards + 1)
        write(dataset, out)
        assert products(out) == whole, f"after a death at step {step}"
    assert status == 0
    assert step == 4 * shards + 3


def _parts(files: dict[str, bytes]) -> list[str]:
    return [name for name in files if name.endswith(".tar")]


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.long)])
def test_kill_9_at_random_moments(
    dataset: SDFDataset, whole: dict[str, bytes], tmp_path: Path, kills: int
) -> None:
    rng, at_work = random.Random(kills), 0
    for number in range(kills):
        out = tmp_path / str(number)
        for _ in range(3):  # struck, struck again on the way on, and again
            child = _in_child(lambda path=out: write(dataset, path, pause=0.002))  # type: ignore[misc]
            time.sleep(rng.uniform(0.01, 0.12))
            os.kill(child, signal.SIGKILL)
            at_work += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        write(dataset, out)
        assert products(out) == whole
        assert not list(out.rglob("*.tmp"))
    assert at_work > kills


def test_a_full_disk_is_one_line_and_it_goes_on_later(
    dataset: SDFDataset, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses files above a limit: in a shard, or only in the index."""
    for limit in (4000, max(len(whole[name]) for name in _parts(whole))):
        out = tmp_path / str(limit)

        def confined(path: Path = out, size: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            try:
                write(dataset, path)
            except DiskError as err:
                os._exit(74 if "Free some space" in str(err) else 1)

        status = os.waitstatus_to_exitcode(os.waitpid(_in_child(confined), 0)[1])
        assert status == (74 if limit == 4000 else 0)
        assert not list(out.rglob("*.tmp"))
        assert (out / "latents.jsonl").exists() == (status == 0)
        write(dataset, out)
        assert products(out) == whole
    out = tmp_path / "index"
    real = os.fsync
    calls = [0]

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] == 4 * len(_parts(whole)) + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match=r"latents\.jsonl: .*index of the latents.*Free some space"):
        write(dataset, out)
    assert write(dataset, out).encoded == 0  # only the index was missing
    assert products(out) == whole
