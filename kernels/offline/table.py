"""The table of what compiled kernels need: printed, kept as CSV, and compared with a kept one."""

from __future__ import annotations

import csv
import dataclasses
from dataclasses import dataclass
from pathlib import Path

from kernels.offline.resources import CONSUMER_SHARED, KB, Resources

MORE_REGISTERS = 8  # than the kept table says: the step in which registers are handed out
MORE_SHARED = KB
SLACK = 32  # bytes that may spill with another Triton than the kernels were fitted to
VERSION = "# triton "  # how the first line of a kept table begins


@dataclass(frozen=True)
class Row:
    """One kernel as one case launches it, on one target."""

    kernel: str
    case: str
    target: str
    needs: Resources

    @property
    def key(self) -> tuple[str, str, str]:
        """What names the row; at most one row of a table has it."""
        return self.kernel, self.case, self.target

    def __str__(self) -> str:
        return f"{self.kernel}, {self.case}, {self.target}"


@dataclass(frozen=True)
class Table:
    """Rows, and the Triton that compiled them."""

    triton: str
    rows: tuple[Row, ...]


def wrong(row: Row, slack: int = 0) -> list[str]:
    """What no row may have; one sentence each. slack: bytes that may spill."""
    return [f"{row}: {what}" for what in row.needs.wrong(row.target, slack)]


def worse(table: Table, kept: Table, complete: bool) -> list[str]:
    """What is wrong with `table`, and what grew since `kept`; one sentence each.

    complete: `table` has every row of its targets, so one that only `kept` has is out of date.
    Of another version of Triton, figures are not compared and a trifle may spill.
    """
    same = table.triton == kept.triton
    found = [sentence for row in table.rows for sentence in wrong(row, 0 if same else SLACK)]
    targets = {row.target for row in table.rows}
    before = {row.key: row.needs for row in kept.rows if row.target in targets}
    for row in table.rows:
        was = before.pop(row.key, None)
        if was is None:
            found.append(f"{row}: not in the kept table; write it anew")
        elif same:
            found += _grown(row, was)
    if complete:
        found += [f"{', '.join(key)}: in the kept table only; write it anew" for key in before]
    return found


def _grown(row: Row, was: Resources) -> list[str]:
    now, found = row.needs, []
    if now.registers > was.registers + MORE_REGISTERS:
        found.append(f"{row}: {now.registers} registers, were {was.registers}")
    if now.shared > was.shared + MORE_SHARED:
        found.append(f"{row}: {now.shared} bytes of shared memory, were {was.shared}")
    if now.unit != was.unit or now.products < was.products:
        found.append(f"{row}: {now.products} {now.unit}, were {was.products} {was.unit}")
    return found


def write(table: Table, path: Path) -> None:
    """Keep the table as CSV, under a line that names the Triton."""
    columns = [field.name for field in dataclasses.fields(Resources)]
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(f"{VERSION}{table.triton}\n")
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["kernel", "case", "target", *columns])
        for row in table.rows:
            out.writerow([*row.key, *dataclasses.astuple(row.needs)])


def read(path: Path) -> Table:
    """The table that `write` kept."""
    with path.open(newline="", encoding="utf-8") as file:
        version = file.readline().strip()
        if not version.startswith(VERSION):
            raise ValueError(f"{path}: the first line must begin with {VERSION!r}: {version!r}")
        rows = []
        for line in csv.DictReader(file):
            kernel, case, target = line.pop("kernel"), line.pop("case"), line.pop("target")
            figures = {name: int(line.pop(name)) for name in list(line) if name != "unit"}
            rows.append(Row(kernel, case, target, Resources(unit=line["unit"], **figures)))
    return Table(version.removeprefix(VERSION), tuple(rows))


def layout(rows: list[Row]) -> str:
    """The rows in columns for reading; * marks more shared memory than consumer cards have."""
    head = "kernel|case|target|warps|stages|registers|spills|shared KB|columns|unit|per SM"
    lines = [head.split("|")]
    for row in rows:
        needs = row.needs
        star = "*" if needs.shared > CONSUMER_SHARED else ""
        unit = f"{needs.unit} ×{needs.products}" if needs.products else needs.unit
        figures = (needs.warps, needs.stages, needs.registers, needs.spills)
        shared = f"{needs.shared / KB:.1f}{star}"
        lines.append(
            [*row.key, *map(str, figures), shared, str(needs.columns), unit,
             str(needs.programs(row.target))]
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
