"""What every test gets: one thread, Triton's interpreter, and a clock that ends hanging tests.

Thread counts have to be in the environment before numpy or torch load, and are inherited by the
processes that tests start. Triton has to know before it is imported that there is no GPU.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Iterator
from types import FrameType

import pytest

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

SECONDS = 120
SECONDS_LONG = 1200
GRACE = 60  # for code that does not return to Python: after this the process itself is ended


@pytest.fixture(autouse=True)
def _clock(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that takes longer than it may, with the stack of where it hangs."""
    limit = SECONDS_LONG if request.node.get_closest_marker("long") else SECONDS
    marker = request.node.get_closest_marker("timeout")
    if marker is not None:
        limit = marker.args[0]

    def ring(_signal: int, _frame: FrameType | None) -> None:
        pytest.fail(f"took longer than {limit} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit)
    faulthandler.dump_traceback_later(limit + GRACE, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
