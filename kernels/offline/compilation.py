"""One launch, compiled for one GPU architecture on any machine, and what it would need there."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile

from triton import knobs

from kernels.offline.launches import Launch, absent_gpu
from kernels.offline.resources import UNITS, Resources


def compile_launch(launch: Launch, target: str) -> Resources:
    """Compile for `target`, afresh and through the code that a launch goes through."""
    log = io.StringIO()
    with contextlib.ExitStack() as stack:
        for group in (knobs.cache, knobs.compilation, knobs.nvidia):
            stack.enter_context(group.scope())
        knobs.cache.dir = stack.enter_context(tempfile.TemporaryDirectory())
        knobs.compilation.always_compile = True
        knobs.nvidia.dump_ptxas_log = True  # it is printed; Triton does not keep the figures
        stack.enter_context(absent_gpu(target))
        stack.enter_context(contextlib.redirect_stdout(log))
        kernel = launch.kernel.run(*launch.args, grid=(1,), warmup=True, **launch.settings)
    registers, spills = _of_log(log.getvalue())
    ptx, known = kernel.asm["ptx"], kernel.metadata
    unit = next((name for name, instruction in UNITS.items() if instruction in ptx), "none")
    return Resources(
        warps=known.num_warps, stages=known.num_stages, registers=registers, spills=spills,
        shared=known.shared, columns=getattr(known, "tmem_size", None) or 0, unit=unit,
        products=ptx.count(UNITS[unit]) if unit in UNITS else 0, rows=_rows(kernel.asm["ttir"]),
    )  # fmt: skip


def _of_log(log: str) -> tuple[int, int]:
    """Registers and bytes of local memory, from what `ptxas -v` prints."""
    registers = re.findall(r"Used (\d+) registers", log)
    spills = re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", log)
    if not registers or not spills:
        raise RuntimeError(f"ptxas did not say what the kernel uses; it printed:\n{log}")
    return max(map(int, registers)), max(map(int, spills))


def _rows(ttir: str) -> int:
    """Rows of the largest matrix product whose factors have 16 bits; 0 without one."""
    found = re.findall(r"tt\.dot .*: tensor<(\d+)x\d+x(?:bf16|f16)>", ttir)
    return max(map(int, found), default=0)
