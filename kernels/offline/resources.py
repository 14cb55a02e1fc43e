"""What a compiled kernel needs of a GPU, and what the targets have."""

from __future__ import annotations

from dataclasses import dataclass

KB = 1024
SHARED_LIMIT = {"sm_80": 163 * KB, "sm_90": 227 * KB, "sm_100": 227 * KB}  # of one program
SHARED_OF_ALL = {"sm_80": 164 * KB, "sm_90": 228 * KB, "sm_100": 228 * KB}  # of a multiprocessor
CONSUMER_SHARED = 99 * KB  # sm_86, sm_89, sm_120: for information
COLUMNS = 512  # of tensor memory, sm_100
TARGETS = tuple(SHARED_LIMIT)  # A100; H100 and H200; B200
# Matrix units and their instruction in PTX, the newest first; and the best one that a target has.
UNITS = {"tcgen05": "tcgen05.mma", "wgmma": "wgmma.mma_async", "mma": "mma.sync"}
BEST_UNIT = {"sm_80": "mma", "sm_90": "wgmma", "sm_100": "tcgen05"}
WARPGROUP_ROWS = 64  # from here on a product fills a tile of wgmma


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel needs, and which matrix unit it uses."""

    warps: int
    stages: int
    registers: int  # of a thread
    spills: int  # bytes of a thread that lie in memory instead of registers
    shared: int  # bytes of a program
    columns: int  # of tensor memory, of a program
    unit: str  # tcgen05, wgmma, mma or none
    products: int  # instructions of that unit
    rows: int  # of the largest matrix product of 16-bit numbers

    def programs(self, target: str) -> int:
        """Programs that a multiprocessor holds at a time."""
        threads = 32 * self.warps
        registers = -(-self.registers // 8) * 8 * threads  # handed out in eights
        return min(
            65536 // registers,
            SHARED_OF_ALL[target] // (self.shared + KB),
            COLUMNS // max(self.columns, 1),
            2048 // threads,
            32,
        )

    def wrong(self, target: str, slack: int = 0) -> list[str]:
        """What no kernel may need; slack: bytes that it may spill."""
        found = []
        if self.spills > slack:
            found.append(f"spills {self.spills} bytes, {slack} are allowed")
        if self.shared > SHARED_LIMIT[target]:
            limit = SHARED_LIMIT[target]
            found.append(f"{self.shared} bytes of shared memory, the target has {limit}")
        if self.columns > COLUMNS:
            found.append(f"{self.columns} columns of tensor memory, the target has {COLUMNS}")
        best = BEST_UNIT[target]
        if self.rows >= WARPGROUP_ROWS and self.unit != best:
            found.append(f"matrix unit {self.unit}, products of {self.rows} rows must use {best}")
        return found
