"""What people see in the terminal: progress bars with ETA, aligned tables, one-line notes.

On a terminal the bar redraws in place; in a log file it becomes one plain line every few seconds,
so that `sbatch` output and CI logs stay readable.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LOG_INTERVAL_SECONDS = 10.0


class Progress:
    """A progress bar: `with Progress(total, "preparing") as bar: bar.advance(note="mug_003")`."""

    def __init__(self, total: int, label: str, unit: str = "it", initial: int = 0) -> None:
        self.total, self.label, self.unit, self.done = total, label, unit, initial
        self._initial = initial
        self._start = self._last = time.monotonic()
        self._note = ""
        self._logged = -1  # `done` of the last plain line
        self._bar: tqdm[None] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, desc=label, unit=unit, initial=initial, dynamic_ncols=True, leave=True
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._logged >= 0 or time.monotonic() - self._start > LOG_INTERVAL_SECONDS:
            self._log_line()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done and show `note` behind the bar."""
        self.done += count
        self._note = note or self._note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(printable(note), refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last >= LOG_INTERVAL_SECONDS:
            self._last = time.monotonic()
            self._log_line()

    def line(self, text: str) -> None:
        """Print a full line without tearing the bar."""
        if self._bar is not None:
            self._bar.write(printable(text), file=sys.stderr)
        else:
            say(text)

    def _log_line(self) -> None:
        if self._logged == self.done:
            return
        self._logged = self.done
        seconds = time.monotonic() - self._start
        rate = (self.done - self._initial) / seconds if seconds > 0 else 0.0
        eta = f"{(self.total - self.done) / rate:.0f} s left" if rate > 0 else "no estimate yet"
        note = f" · {self._note}" if self._note else ""
        say(
            f"{self.label}: {self.done}/{self.total} {self.unit} · {rate:.2f}/s · {eta}{note}",
        )


def progress(items: Sequence[T], label: str, unit: str = "it") -> Iterator[T]:
    """Iterate over `items` behind a `Progress` bar."""
    with Progress(len(items), label, unit) as bar:
        for item in items:
            yield item
            bar.advance()


def say(text: str) -> None:
    """One line for the person watching (stderr, so that stdout stays for results)."""
    print(printable(text), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """`text` with whatever would move a terminal's cursor spelt out (names of files hold anything).

    Line ends stay.
    """
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An aligned plain-text table; numbers go right, words go left."""
    cells = [[_cell(value) for value in row] for row in rows]
    columns = list(zip(headers, *cells, strict=True))
    widths = [max(len(text) for text in column) for column in columns]
    numeric = [all(_is_number(text) for text in column[1:]) for column in columns]

    def line(values: Sequence[str]) -> str:
        return "  ".join(
            value.rjust(width) if right else value.ljust(width)
            for value, width, right in zip(values, widths, numeric, strict=True)
        ).rstrip()

    rule = "  ".join("─" * width for width in widths)
    return "\n".join([line(list(headers)), rule, *[line(row) for row in cells]])


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text.rstrip("%"))
    except ValueError:
        return text in ("", "-")
    return True
