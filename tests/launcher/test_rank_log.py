"""Every rank's own file, and what of it the launcher still hears."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.rank_log import RankLog, path_of

ROOT = Path(__file__).resolve().parents[2]


def rank(logs: Path, number: int, body: str, after: str = "") -> tuple[int, str, str]:
    """A process that opens its log, does `body`, closes it, does `after`: code, stdout, stderr."""
    code = (
        "import sys, os\nfrom pathlib import Path\nfrom launcher.rank_log import RankLog\n"
        f"log = RankLog({number}, 4)\nlog.host = 'n2'\nprint('before')\n"
        f"log.open(Path({str(logs)!r}))\n{body}\nlog.close()\n{after}"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, cwd=ROOT)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def written(logs: Path, number: int) -> list[str]:
    head, *lines = path_of(logs, number).read_text().splitlines()
    assert head.startswith(f"─── rank {number} of 4 on n2, process ")
    return lines


def test_rank_0_is_heard_and_noted(tmp_path: Path) -> None:
    body = "print('a'); print('b', file=sys.stderr)\nsys.stderr.write('\\rbar 1\\rbar 2\\n')"
    said = rank(tmp_path, 0, body, "print('after')")
    assert said == (0, "before\na\nafter\n", "b\n\rbar 1\rbar 2\n")
    assert written(tmp_path, 0) == ["a", "b", "bar 2"]


def test_another_rank_is_heard_when_it_complains(tmp_path: Path) -> None:
    body = (
        "print('a'); print('WARNING: slow', file=sys.stderr); os.system('echo from C >&2')\n"
        "print('errors: 0'); print('threed-gen: error: no')"
    )
    _, out, err = rank(tmp_path, 3, body, "print('after')")
    assert out == "before\nafter\n"
    assert err == "[rank 3 n2] WARNING: slow\n[rank 3 n2] threed-gen: error: no\n"
    assert written(tmp_path, 3) == [
        "a", "WARNING: slow", "from C", "errors: 0", "threed-gen: error: no",
    ]  # fmt: skip


def test_a_traceback_stays_in_the_file(tmp_path: Path) -> None:
    code, out, err = rank(tmp_path, 1, "{}['key']")
    assert (code, out) == (1, "before\n")
    path = path_of(tmp_path, 1)
    assert err.splitlines() == [
        "[rank 1 n2] KeyError: 'key'",
        f"[rank 1 n2] KeyError: its traceback is in {path}",
    ]
    assert written(tmp_path, 1)[0] == "Traceback (most recent call last):"


@pytest.mark.parametrize("number", [0, 2])
def test_a_crash_leaves_its_stack(tmp_path: Path, number: int) -> None:
    rank(tmp_path, number, "os.kill(os.getpid(), 11)")
    assert "Fatal Python error: Segmentation fault" in written(tmp_path, number)


def test_starts_follow_each_other_in_the_file(tmp_path: Path) -> None:
    for word in ("first", "second"):
        rank(tmp_path, 1, f"print({word!r})")
    lines = path_of(tmp_path, 1).read_text().splitlines()
    assert lines[1::2] == ["first", "second"] and len(lines) == 4


def test_a_full_disk_is_told_once_and_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    log = RankLog(0, 1)
    real = Path("/dev/full")
    if not real.exists():
        pytest.fail("this machine has no /dev/full")
    from launcher.rank_log import _Both

    with real.open("wb") as full:
        both = _Both(sys.stdout, full.fileno())
        both.write("a\nb\n")
    assert capsys.readouterr().out.splitlines() == [
        "a", "b", "WARNING: this rank's log ends here: No space left on device",
    ]  # fmt: skip
    log.close()  # was never opened
