"""What the Triton kernels need, compiled without a GPU: nothing spills and nothing grows.

This process has Triton interpret its kernels, so everything that compiles is a process of its own.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.offline import table
from kernels.offline.resources import SHARED_LIMIT, TARGETS, Resources
from kernels.offline.table import Row, Table

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(__file__).with_name("resources.csv")
ROW = Row(
    "walk.forward", "32×32/2 bfloat16 dense", "sm_90",
    Resources(
        warps=8, stages=2, registers=120, spills=0, shared=30_000, columns=0, unit="wgmma",
        products=6, rows=128,
    ),
)  # fmt: skip


def python(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python whose Triton compiles, with no kernel of an earlier run, and no warning let pass."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop("TRITON_INTERPRET", None)
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", *arguments],
        capture_output=True, text=True, env=environment, cwd=ROOT,
    )  # fmt: skip


def changed(**needs: object) -> Row:
    return dataclasses.replace(ROW, needs=dataclasses.replace(ROW.needs, **needs))  # type: ignore[arg-type]


def findings(now: Row, was: Row | None = ROW, triton: str = "3.9.0") -> str:
    kept = Table("3.9.0", () if was is None else (was,))
    return "\n".join(table.worse(Table(triton, (now,)), kept, complete=True))


@pytest.mark.parametrize(
    "target",
    [t if t == "sm_90" else pytest.param(t, marks=pytest.mark.long) for t in TARGETS],
)
def test_the_main_configurations(target: str, tmp_path: Path) -> None:
    """Released and recommended heads, m_cmp 4 and 8: as the kept table says."""
    written = tmp_path / "now.csv"
    done = python(
        tmp_path, "-m", "kernels.offline", "--target", target,
        "--check", str(KEPT), "--write", str(written),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = table.read(written).rows
    for heads in ("32×32/2", "16×64/2"):
        parts = ("dense", "selection, top-8", "choice, m_cmp 4, top-8", "choice, m_cmp 8, top-8")
        for part in parts:
            assert any(row.case == f"{heads} bfloat16 {part}" for row in rows), (heads, part)
    assert all(row.target == target and row.needs.spills == 0 for row in rows)
    products = [row.needs for row in rows if row.needs.rows >= 64]
    assert len(products) == 16
    assert {needs.unit for needs in products} == {
        {"sm_80": "mma", "sm_90": "wgmma", "sm_100": "tcgen05"}[target]
    }


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_every_configuration(target: str, tmp_path: Path) -> None:
    """All head dimensions, types, shares of KV heads; no row of the table is out of date."""
    arguments = ("--all", "--target", target, "--check", str(KEPT))
    done = python(tmp_path, "-m", "kernels.offline", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_a_kernel_that_spills_is_refused(tmp_path: Path) -> None:
    """Gradients of keys that gather 128 rows at a time do not fit the registers."""
    code = (
        "import sys; from kernels.ssa.gpu import shapes; shapes.READER_ROWS = 128;"
        "from kernels.offline.__main__ import main; sys.exit(main(['--target', 'sm_90']))"
    )
    done = python(tmp_path, "-c", code)
    assert done.returncode == 1, done.stdout + done.stderr
    wrong = [line for line in done.stderr.splitlines() if line.startswith("worse: ")]
    assert wrong
    assert all(line.startswith("worse: readers.items, ") for line in wrong)
    assert all(line.endswith(" bytes, 0 are allowed") for line in wrong)


def test_a_batch_is_no_reason_to_compile_again(tmp_path: Path) -> None:
    """A batch of one voxel launches what a large one does; a plan of one tile once broke Triton."""
    code = """if True:
        import torch
        from kernels.offline.launches import recorded
        from kernels.ssa import build_plan
        from kernels.ssa.gpu import configurations as c

        def launched(plans):
            with recorded("sm_90") as launches:
                for _, run in c._model_cases(c.RELEASED, plans, top_k=8):
                    run()
            for launch in launches:
                launch.settings.pop("SPAN", None)  # the choice looks at small rows in smaller parts
            return {launch.identity() for launch in launches}

        voxel = torch.tensor([[0, 1, 2, 3]], dtype=torch.int32)
        one = launched({4: build_plan(voxel), 8: build_plan(voxel, cell=8)})
        many = launched({4: c._plan(4), 8: c._plan(8)})
        print(len(one), len(many), one - many)
    """
    done = python(tmp_path, "-c", code)
    assert done.stdout.split() == ["14", "15", "set()"], done.stdout + done.stderr


def test_growth_is_named_with_its_figures() -> None:
    where = "walk.forward, 32×32/2 bfloat16 dense, sm_90: "
    assert findings(ROW) == ""
    assert findings(changed(registers=128, shared=31_000, products=8)) == ""
    assert findings(changed(registers=129)) == where + "129 registers, were 120"
    assert findings(changed(shared=32_000)) == where + "32000 bytes of shared memory, were 30000"
    assert findings(changed(products=5)) == where + "5 wgmma, were 6 wgmma"
    small = dataclasses.replace(changed(rows=32, unit="mma", products=32))
    assert findings(small) == where + "32 mma, were 6 wgmma"


def test_limits_hold_whatever_the_table_says() -> None:
    for needs, text in (
        ({"spills": 4}, "spills 4 bytes"),
        ({"shared": SHARED_LIMIT["sm_90"] + 1}, "bytes of shared memory, the target has 232448"),
        ({"columns": 1024}, "1024 columns of tensor memory, the target has 512"),
        ({"unit": "mma"}, "matrix unit mma, products of 128 rows must use wgmma"),
    ):
        assert text in findings(changed(**needs), changed(**needs))
        assert text in table.wrong(changed(**needs))[0]


def test_another_triton_is_held_to_the_limits_alone() -> None:
    assert findings(changed(registers=200), triton="3.6.0") == ""
    assert findings(changed(spills=table.SLACK), triton="3.6.0") == ""
    assert "spills 40" in findings(changed(spills=40), triton="3.6.0")
    assert "spills 4" in findings(changed(spills=4))


def test_rows_that_only_one_table_has_are_named() -> None:
    assert "not in the kept table" in findings(ROW, was=None)
    other = dataclasses.replace(ROW, kernel="walk.sideways")
    assert "walk.sideways, 32×32/2 bfloat16 dense, sm_90: in the kept table only" in findings(
        ROW, was=other
    )
    part = table.worse(Table("3.9.0", (ROW,)), Table("3.9.0", (ROW, other)), complete=False)
    assert part == []


def test_a_kept_table_reads_as_it_was_written(tmp_path: Path) -> None:
    now = Table("3.9.0", (ROW, dataclasses.replace(ROW, target="sm_100")))
    table.write(now, tmp_path / "kept.csv")
    assert table.read(tmp_path / "kept.csv") == now
    (tmp_path / "kept.csv").write_text("kernel,case\n")
    with pytest.raises(ValueError, match="the first line must begin with"):
        table.read(tmp_path / "kept.csv")


def test_programs_on_a_multiprocessor() -> None:
    assert changed(registers=128).needs.programs("sm_90") == 2  # 65536 registers, 256 threads each
    assert changed(registers=129).needs.programs("sm_90") == 1
    assert changed(registers=32, shared=110 * 1024).needs.programs("sm_90") == 2
    assert changed(registers=32, columns=512).needs.programs("sm_100") == 1


def test_an_obstacle_is_one_line(tmp_path: Path) -> None:
    code = "import sys; {}; from kernels.offline.__main__ import main; sys.exit(main([]))"
    for trouble, text in (
        ("sys.modules['triton'] = None", "Triton is not installed"),
        ("import os; os.environ['TRITON_INTERPRET'] = '1'", "TRITON_INTERPRET is set"),
    ):
        done = python(tmp_path, "-c", code.format(trouble))
        assert done.returncode == 2
        assert done.stdout == ""
        assert text in done.stderr
        assert done.stderr.count("\n") == 1
