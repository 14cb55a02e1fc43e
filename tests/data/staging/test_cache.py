"""The staging folder: whole copies or none, within the limit, and none that is in use evicted."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.staging.sets import MadeSet, make_set
from threed_gen.data.payload import CorruptSampleError
from threed_gen.data.shard import ShardFile
from threed_gen.data.staging.cache import BadCopyError, Fill, StagingFolder
from threed_gen.data.staging.eviction import Copy, NoRoomError, make_room, victims
from threed_gen.data.staging.stager import copy_file
from threed_gen.data.staging.wishes import OwnWish, wishes
from threed_gen.errors import DiskError


@pytest.fixture
def made(tmp_path: Path) -> MadeSet:
    return make_set(tmp_path / "data")


def filler(made: MadeSet, shard: ShardFile) -> Fill:
    path = made.out / "shards" / shard.file
    return lambda file: copy_file(path, shard.size, file, lambda: None)


def staged(made: MadeSet, root: Path, limit: int = 10**9) -> StagingFolder:
    folder = StagingFolder(root, limit)
    for shard in made.shards:
        folder.add(shard, filler(made, shard), set())
    return folder


def test_a_copy_is_read_as_the_shard_is(made: MadeSet, tmp_path: Path) -> None:
    folder = StagingFolder(tmp_path / "node", 10**9)
    assert folder.read(*made.place(0)) is None and not folder.has(made.shards[0])
    folder = staged(made, tmp_path / "node")
    assert [folder.read(*made.place(i)) for i in range(12)] == made.payloads
    for shard in made.shards:
        assert folder.path(shard).read_bytes() == (made.out / "shards" / shard.file).read_bytes()
    assert len(folder.copies()) == 4


def test_a_copy_of_other_bytes_never_gets_the_name(made: MadeSet, tmp_path: Path) -> None:
    folder, shard = StagingFolder(tmp_path / "node", 10**9), made.shards[0]
    file = made.out / "shards" / shard.file
    whole = file.read_bytes()
    for content, words in (
        (whole[:-1], "bytes, not"),
        (whole + b"x", "bytes, not"),
        (b"x" + whole[1:], "not those of the index"),
    ):
        file.write_bytes(content)
        with pytest.raises(BadCopyError, match=words):
            folder.add(shard, filler(made, shard), set())
    assert list(folder.folder.iterdir()) == [] and folder.read(*made.place(0)) is None


KILLED = """
import os, signal, sys
from pathlib import Path
from threed_gen.data.shard import ShardFile
from threed_gen.data.staging.cache import StagingFolder
from threed_gen.data.staging.wishes import OwnWish
def fill(file):
    file.write(b"half")
    file.flush()
    fill.own = OwnWish(Path(sys.argv[1]), "gone")
    print("begun", flush=True)
    signal.pause()
StagingFolder(Path(sys.argv[1]), 10**9).add(ShardFile("shard-000009.tar", 5000, "0" * 64), fill, set())
"""  # noqa: E501


def test_a_killed_writer_leaves_nothing_that_counts(
    made: MadeSet, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = tmp_path / "node"
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(root)], stdout=subprocess.PIPE, text=True
    )
    request.addfinalizer(writer.kill)
    assert writer.stdout is not None and writer.stdout.readline() == "begun\n"
    folder = StagingFolder(root, 10**9)
    assert [copy.size for copy in folder.copies()] == [5000], "the room is taken from the start"
    assert folder.remove_leftovers() == 0, "its writer lives"
    assert [wish.origin for wish in wishes(root)] == ["gone"]
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert not folder.has(ShardFile("shard-000009.tar", 5000, "0" * 64))
    assert wishes(root) == [] and list((root / "wishes").iterdir()) == []
    folder.add(made.shards[0], filler(made, made.shards[0]), set())
    assert [copy.name for copy in folder.copies()] == [folder.path(made.shards[0]).name]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_who_goes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    draw = data.draw
    folder = tmp_path_factory.mktemp("copies")
    sizes = draw(st.lists(st.integers(0, 50), max_size=6))
    copies = [Copy(f"c{k}", size, draw(st.integers(0, 3))) for k, size in enumerate(sizes)]
    for copy in copies:
        (folder / copy.name).write_bytes(bytes(copy.size))
    wanted = {copy.name for copy in copies if draw(st.booleans())}
    size, limit = draw(st.integers(0, 60)), draw(st.integers(0, 150))
    needed = sum(copy.size for copy in copies if copy.name in wanted)
    if needed + size > limit:
        with pytest.raises(NoRoomError, match=r"data\.stage\.limit_gb"):
            make_room(folder, copies, size, limit, wanted)
        assert len(list(folder.iterdir())) == len(copies), "nothing is deleted in vain"
        return
    count = make_room(folder, copies, size, limit, wanted)
    left = {path.name for path in folder.iterdir()}
    gone = [copy for copy in copies if copy.name not in left]
    kept = [copy for copy in copies if copy.name in left]
    assert len(gone) == count and wanted <= left
    assert sum(copy.size for copy in kept) + size <= limit
    assert gone == [] or sum(c.size for c in kept) + size + max(gone, key=_age).size > limit
    free = [copy for copy in kept if copy.name not in wanted]
    assert all(_age(a) < _age(b) for a in gone for b in free), "least recently needed first"


def _age(copy: Copy) -> tuple[float, str]:
    return copy.needed, copy.name


def test_a_half_made_copy_is_no_victim() -> None:
    assert victims([Copy(".a.tar.77.tmp", 5, 0.0), Copy("b.tar", 5, 1.0)], {"c"}) == [
        Copy("b.tar", 5, 1.0)
    ]


def test_the_least_recently_needed_goes_unless_it_is_in_use(made: MadeSet, tmp_path: Path) -> None:
    size = made.shards[0].size
    folder = StagingFolder(tmp_path / "node", 3 * size)
    a, b, c, d = made.shards
    for age, shard in enumerate((a, b, c)):
        folder.add(shard, filler(made, shard), set())
        os.utime(folder.path(shard), (100 + age, 100 + age))
    folder.touch([a])
    with folder.path(b).open("rb") as reading:
        fcntl.flock(reading, fcntl.LOCK_SH)
        assert folder.add(d, filler(made, d), set()) == 1
    assert [folder.has(shard) for shard in made.shards] == [True, True, False, True]
    wanted = {folder.path(shard).name for shard in (a, b, d)}
    with pytest.raises(NoRoomError, match=r"raise data\.stage\.limit_gb, or lower data\.stage\.a"):
        folder.add(c, filler(made, c), wanted)
    assert folder.has(a) and folder.has(b) and folder.has(d)


def test_a_reader_keeps_its_copy_while_it_reads(made: MadeSet, tmp_path: Path) -> None:
    """The lock that `read` takes is the one that eviction respects."""
    folder, found = staged(made, tmp_path / "node"), []
    reader = threading.Thread(target=lambda: found.append(folder.read(*made.place(0))))
    with folder.path(made.shards[0]).open("rb") as evictor:
        fcntl.flock(evictor, fcntl.LOCK_EX)
        reader.start()
        reader.join(0.2)
        assert reader.is_alive() and found == [], "a reader waits for whoever evicts"
    reader.join()
    assert found == [made.payloads[0]]


def test_a_damaged_copy_is_told_apart_from_none(made: MadeSet, tmp_path: Path) -> None:
    folder = staged(made, tmp_path / "node")
    shard, offset, size, sha256 = made.place(4)
    with folder.path(shard).open("r+b") as file:
        file.seek(offset)
        file.write(b"!")
    with pytest.raises(CorruptSampleError, match="sha256 differs"):
        folder.read(shard, offset, size, sha256)
    folder.drop(shard)
    assert folder.read(shard, offset, size, sha256) is None


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The operating system refuses larger files, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_shows_before_the_first_byte(made: MadeSet, tmp_path: Path) -> None:
    folder, written = StagingFolder(tmp_path / "node", 10**9), []

    def fill(file: BinaryIO) -> str:
        written.append(file)
        return ""

    with files_of_at_most(5000), pytest.raises(DiskError, match="a staged shard.*Free some space"):
        folder.add(made.shards[0], fill, set())
    assert written == [] and folder.copies() == []


def test_a_wish_is_seen_whole_while_it_is_replaced(tmp_path: Path) -> None:
    own, seen = OwnWish(tmp_path, "set"), 0

    def replace() -> None:
        for k in range(100):
            own.write(["a" * (k % 50)] * 20)

    writer = threading.Thread(target=replace)
    writer.start()
    while writer.is_alive():
        for wish in wishes(tmp_path):
            assert len(wish.copies) in (0, 20)
            seen += 1
    assert seen > 0 and [len(wish.copies) for wish in wishes(tmp_path)] == [20]
    own.close()
    assert wishes(tmp_path) == []
