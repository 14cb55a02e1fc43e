"""Latents by several ranks: the bytes of one process, whoever was killed, failed or came late."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.data.latents.sets import made_up, make_data, params_for, products
from threed_gen.data.claim import taking_part
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.latents.index import LatentIndex
from threed_gen.data.latents.latent import Latent, Reject
from threed_gen.data.latents.parts import Packed
from threed_gen.data.latents.work import Packer, WaitingSamples
from threed_gen.data.latents.writer import Written, write_latents
from threed_gen.data.ranks import Share
from threed_gen.errors import UserError

COUNT = 12
BAD = "s4"  # its latent is not finite


class Encoder:
    """Made-up latents, and which samples were asked for; `last`: then it is killed."""

    def __init__(self, dataset: SDFDataset, last: int = 10**6) -> None:
        self.dataset, self.last = dataset, last
        self.asked: list[int] = []

    def __call__(self, i: int, resolution: int) -> Latent:
        if len(self.asked) == self.last and i not in self.asked:
            raise KeyboardInterrupt
        if i not in self.asked:
            self.asked.append(i)
        latent = made_up(self.dataset, i, resolution)
        if self.dataset.entry(i).id == BAD:
            latent.mean[0, 0] = float("nan")
        return latent


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SDFDataset:
    return make_data(tmp_path_factory.mktemp("data"), COUNT)


@pytest.fixture(scope="module")
def whole(dataset: SDFDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process gives: several shards, an index with statistics, a reject."""
    out = tmp_path_factory.mktemp("whole")
    encoder = Encoder(dataset)
    write(encoder, out)
    assert len(encoder.asked) == COUNT
    found = products(out)
    assert sum(name.endswith(".tar") for name in found) >= 4
    return found


def write(encoder: Encoder, out: Path, rank: int = 0, world: int = 1) -> Written:
    params = params_for(encoder.dataset)
    return write_latents(out, encoder.dataset, params, encoder, share=Share(rank, world))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_give_the_bytes_of_one_process(
    dataset: SDFDataset, whole: dict[str, bytes], tmp_path: Path, world: int
) -> None:
    encoders = [Encoder(dataset) for _ in range(world)]
    results = [write(encoders[rank], tmp_path, rank, world) for rank in range(world)]
    assert [result.index is None for result in results] == [True] * (world - 1) + [False]
    assert not (set(encoders[0].asked) & set(encoders[1].asked))
    assert sum(len(encoder.asked) for encoder in encoders) == COUNT, "each once"
    left = COUNT
    for result in results[:-1]:
        left -= result.encoded
        assert result.open == left
    assert products(tmp_path) == whole, "index, statistics and shards; and nothing waits"
    assert results[-1].index == LatentIndex.load(tmp_path)
    again = write(Encoder(dataset, last=0), tmp_path, 0, world)
    assert (again.encoded, again.open) == (0, 0)
    assert products(tmp_path) == whole


def test_a_killed_rank_loses_nothing_and_any_number_of_ranks_may_go_on(
    dataset: SDFDataset, whole: dict[str, bytes], tmp_path: Path
) -> None:
    own = [i for i in range(COUNT) if Share(0, 2).owns(f"s{i}")]
    assert len(own) >= 4
    with pytest.raises(KeyboardInterrupt):
        write(Encoder(dataset, last=2), tmp_path, 0, 2)
    other = Encoder(dataset)
    assert write(other, tmp_path, 1, 2).open == len(own) - 2
    assert not (tmp_path / "latents.jsonl").exists()
    last = Encoder(dataset)
    assert write(last, tmp_path).encoded == len(own) - 2
    assert last.asked == own[2:]
    assert products(tmp_path) == whole


def test_a_damaged_file_is_encoded_again(
    dataset: SDFDataset, whole: dict[str, bytes], tmp_path: Path
) -> None:
    write(Encoder(dataset), tmp_path, 0, 2)
    path = next((tmp_path / "latents" / "work").glob("*/*"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    last = Encoder(dataset)
    result = write(last, tmp_path, 1, 2)
    own = sum(Share(1, 2).owns(f"s{i}") for i in range(COUNT))
    assert result.encoded == len(last.asked) == own + 1
    assert products(tmp_path) == whole


def test_a_lost_shard_is_made_again_by_ranks(
    dataset: SDFDataset, whole: dict[str, bytes], tmp_path: Path
) -> None:
    write(Encoder(dataset), tmp_path)
    (tmp_path / "latents" / "shard-000001.tar").unlink()
    first = write(Encoder(dataset), tmp_path, 0, 3)
    second = write(Encoder(dataset), tmp_path, 1, 3)
    third = write(Encoder(dataset), tmp_path, 2, 3)
    assert 0 < first.encoded + second.encoded + third.encoded < COUNT - 2
    assert products(tmp_path) == whole


def test_others_encode_for_one_that_packs(
    dataset: SDFDataset, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """As the ranks of an mpirun do, in any order."""
    packer = Packer(dataset, params_for(dataset), Encoder(dataset), "stop")
    waiting = WaitingSamples(tmp_path / "latents")

    def elsewhere(samples: Iterable[int]) -> Iterator[int]:
        for i in reversed(list(samples)):
            waiting.write(packer.packed(i))
            yield i

    nobody = Encoder(dataset, last=0)
    result = write_latents(
        tmp_path, dataset, packer.params, nobody, share=Share(), elsewhere=elsewhere
    )
    assert (result.encoded, nobody.asked) == (COUNT, [])
    assert products(tmp_path) == whole


def test_other_parameters_are_refused_while_samples_wait(
    dataset: SDFDataset, tmp_path: Path
) -> None:
    write(Encoder(dataset), tmp_path, 0, 2)
    before = products(tmp_path)
    for share in (Share(1, 2), Share()):
        with pytest.raises(UserError, match="values = fp32, now it is fp16; choose another --out"):
            write_latents(
                tmp_path, dataset, params_for(dataset, values="fp16"), Encoder(dataset, last=0),
                share=share,
            )  # fmt: skip
    assert products(tmp_path) == before


def test_another_number_of_ranks_and_a_second_of_the_same_are_refused(
    dataset: SDFDataset, tmp_path: Path
) -> None:
    encoder = Encoder(dataset, last=0)
    with taking_part(tmp_path / "latents", {}, Share(0, 2), COUNT, "encode"):
        with pytest.raises(UserError, match="another `encode` is at work here with --world-size 2"):
            write(encoder, tmp_path)
        with pytest.raises(UserError, match="another `encode` is writing here as rank 0 of 2"):
            write(encoder, tmp_path, 0, 2)


def test_what_waits_comes_back_as_it_was(tmp_path: Path) -> None:
    waiting = WaitingSamples(tmp_path)
    sample = Packed("a/ü\n", {32: b"x\ny", 64: b""}, {32: 5, 64: 7}, {32: "m", 64: "n"})
    reject = Reject("b", "corrupt", "two\nlines")
    for one in (sample, reject):
        waiting.write(one)
        assert waiting.read(one.id) == one
    assert waiting.read("c") is None
    assert len(waiting.found()) == 2
    waiting.clean()
    assert waiting.found() == set()
