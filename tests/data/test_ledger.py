"""The ledger: torn or damaged at any byte it keeps what is whole, and the newest line counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from threed_gen.data.ledger import BuiltGrid, Ledger, Outcome, read_ledger
from threed_gen.data.ranks import Share
from threed_gen.errors import UserError

GOOD = Outcome("a", [1, 2], "ff", {16: BuiltGrid(5, "ab", 8, 100, 0.25)}, flags=("skinned",))
BAD = Outcome("b/ü\n", [], "", status="reject", reason="no_faces", message="nothing in it")
ALONE = Share()


def _ledger(work: Path, share: Share = ALONE, params: str = "p") -> Ledger:
    return Ledger(work, share, params)


def _filled(work: Path) -> Path:
    ledger = _ledger(work)
    for outcome in (GOOD, BAD, replace(GOOD, source="c", attempts=2, info={"caps": 3})):
        ledger.add(outcome)
    ledger.close()
    return ledger.path


def test_outcomes_come_back_whole(tmp_path: Path) -> None:
    path = _filled(tmp_path)
    again = _ledger(tmp_path)
    assert list(again.outcomes.values()) == [
        replace(GOOD, params="p"),
        replace(BAD, params="p"),
        replace(GOOD, params="p", source="c", attempts=2, info={"caps": 3}),
    ]
    assert path.name == "ledger.0-of-1.jsonl"


def test_torn_at_every_byte(tmp_path: Path) -> None:
    content = _filled(tmp_path / "whole").read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    assert len(ends) == 3
    for length in range(len(content) + 1):
        work = tmp_path / str(length)
        work.mkdir()
        path = work / "ledger.0-of-1.jsonl"
        path.write_bytes(content[:length])
        whole = sum(end <= length for end in ends)
        ledger = _ledger(work)
        assert list(ledger.outcomes) == ["a", "b/ü\n", "c"][:whole]
        ledger.add(replace(GOOD, source="new"))
        ledger.close()
        assert len(read_ledger(path)[0]) == whole + 1
        assert path.read_bytes()[: [0, *ends][whole]] == content[: [0, *ends][whole]]


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    content = _filled(tmp_path).read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    path = tmp_path / "copy.jsonl"
    for position in sorted({*range(0, len(content), 7), *(end - 1 for end in ends), *ends[:-1]}):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        found, length = read_ledger(path)
        assert len(found) == sum(end <= position for end in ends)
        assert length == [0, *ends][len(found)]


def test_the_newest_line_of_all_ranks_counts_whatever_the_clocks_say(tmp_path: Path) -> None:
    first = _ledger(tmp_path, Share(1, 2))
    first.add(replace(BAD, source="a"))
    second = _ledger(tmp_path, Share(0, 3))  # a later start with another number of ranks
    assert second.outcomes["a"].reason == "no_faces"
    assert second.add(GOOD).serial == 2
    second.add(replace(GOOD, source="x"))
    third = _ledger(tmp_path, Share(0, 1))
    assert third.outcomes["a"].ok
    assert third.add(replace(GOOD, message="again")).serial == 3
    for share in (Share(0, 1), Share(0, 3), Share(1, 2)):
        assert _ledger(tmp_path, share).outcomes["a"].message == "again"
    assert set(first.outcomes) == {"a"}
    first.refresh()
    assert first.outcomes["a"].message == "again"
    assert set(first.outcomes) == {"a", "x"}


def test_a_line_in_the_making_is_read_once_it_is_whole(tmp_path: Path) -> None:
    line = _filled(tmp_path / "other").read_bytes().partition(b"\n")[0] + b"\n"
    mine = _ledger(tmp_path / "work")
    theirs = tmp_path / "work" / "ledger.1-of-2.jsonl"
    for length in range(len(line) + 1):
        theirs.write_bytes(line[:length])
        mine.refresh()
        assert bool(mine.outcomes) == (length == len(line))
    theirs.write_bytes(b"")  # deleted and begun anew
    mine.refresh()
    theirs.write_bytes(line)
    mine.refresh()
    assert mine.outcomes["a"] == replace(GOOD, params="p")


def test_other_parameters_are_refused_by_name(tmp_path: Path) -> None:
    _filled(tmp_path)
    with pytest.raises(UserError, match=r"ledger\.0-of-1\.jsonl: a was .*hash p, now q") as caught:
        _ledger(tmp_path, Share(0, 2), params="q")
    assert "\n" not in str(caught.value)


def test_columns_of_later_versions_are_ignored(tmp_path: Path) -> None:
    import hashlib

    path = _filled(tmp_path)
    row = json.loads(path.read_text().splitlines()[0].partition(" ")[2])
    text = json.dumps({**row, "mood": "fine"})
    check = hashlib.sha256(text.encode()).hexdigest()[:16]
    path.write_text(f"{check} {text}\n")
    assert _ledger(tmp_path).outcomes["a"] == replace(GOOD, params="p")
