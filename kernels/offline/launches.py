"""Kernel launches written down instead of run: what the launchers launch is what gets compiled.

So no list of signatures, constants or warps stands beside the launchers and grows old. The
launchers run on small tensors of the CPU, and believe that the GPU is the target; their results are
never filled in and mean nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

_devices = itertools.count()


@dataclass(frozen=True)
class Launch:
    """One `kernel[grid](*args, **settings)`."""

    kernel: Any  # triton.JITFunction
    args: tuple[Any, ...]
    settings: dict[str, Any]  # compile-time constants, warps, stages

    @property
    def name(self) -> str:
        """File and function, such as `walk.forward`."""
        module = self.kernel.fn.__module__.rsplit(".", 1)[-1]
        return f"{module}.{self.kernel.fn.__name__.lstrip('_')}"

    def identity(self) -> tuple[Any, ...]:
        """Equal for launches that Triton compiles to the same code."""
        kinds = [
            _kind(value, param.do_not_specialize)
            for param, value in zip(self.kernel.params, self.args, strict=False)
        ]
        return (self.name, tuple(kinds), tuple(sorted(self.settings.items())))


@contextmanager
def recorded(target: str) -> Iterator[list[Launch]]:
    """Triton kernels launched inside the block go into the list and do not run."""
    launches: list[Launch] = []

    def write_down(kernel: Any, *args: Any, grid: Any, warmup: bool, **settings: Any) -> None:
        launches.append(Launch(kernel, args, settings))

    with absent_gpu(target), mock.patch.object(JITFunction, "run", write_down):
        yield launches


@contextmanager
def absent_gpu(target: str) -> Iterator[None]:
    """Let Triton believe that this machine has a GPU of the architecture `target` (sm_90, ...)."""
    driver.set_active(_Driver(target))
    try:
        yield
    finally:
        driver.set_active(None)  # who asks next gets the machine's own


class _Driver:
    """The part of a Triton driver that launching asks for before it compiles."""

    def __init__(self, target: str) -> None:
        self._target = GPUTarget("cuda", int(target.removeprefix("sm_")), 32)
        self._device = next(_devices)  # Triton keeps kernels by device: never get an earlier one

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return self._device

    def get_current_stream(self, _device: int) -> int:
        return 0


def _kind(value: Any, plain: bool) -> Any:
    """What Triton's compilation knows of an argument: a tensor's type, an integer's value."""
    if isinstance(value, Tensor):
        return value.dtype, value.data_ptr() % 16 == 0
    return type(value) if plain else value
