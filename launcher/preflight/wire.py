"""Messages between the first program and the nodes' ones, over whatever starts processes there.

They go through the standard input and output of `srun` or `ssh`: these work before any name, port
or shared disk has been looked at. Slurm may cut lines beyond 1,000 bytes, and tools on the way may
add lines of their own, so a message is cut into short lines that begin with a mark.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO

MARK = "@preflight"
PIECE = 700  # characters
KEPT = 20  # last lines of what a starter says

Message = dict[str, Any]


def lines(node: str, message: Mapping[str, Any]) -> list[str]:
    """A message of one node, as lines; JSON, so that there is nothing but ASCII."""
    text = json.dumps(message)
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    more = len(pieces) - 1
    return [f"{MARK} {node} {more - at} {piece}\n" for at, piece in enumerate(pieces)]


class Joiner:
    """Puts lines together again; lines of several nodes may alternate."""

    def __init__(self) -> None:
        self._begun: dict[str, str] = {}

    def add(self, line: str) -> tuple[str, Message] | None:
        """(node, message) when this line is its last; None otherwise.

        Raises:
            ValueError: the line is no part of a message.
        """
        mark, node, left, piece = line.rstrip("\n").split(" ", 3)
        if mark != MARK:
            raise ValueError(line)
        text = self._begun.pop(node, "") + piece
        if int(left):
            self._begun[node] = text
            return None
        return node, json.loads(text)


class Wire:
    """One starter: `srun` for all nodes, or one `ssh` for each."""

    def __init__(self, words: Sequence[str], inbox: queue.Queue[tuple[str, Message]]) -> None:
        self._process = subprocess.Popen(
            words, text=True, errors="replace",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C ends it through `end`, in order
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.said: list[str] = []  # what it says beside messages: why it fails
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, inbox), daemon=True),
            threading.Thread(target=self._keep, args=(self._process.stderr,), daemon=True),
        ]
        for thread in self._readers:
            thread.start()

    def send(self, message: Mapping[str, Any]) -> None:
        """To all nodes behind this starter."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError:  # it has ended; its nodes then do not answer, and are named for that
            return

    @property
    def ended(self) -> bool:
        """Whether it has ended and all it said is read."""
        if self._process.poll() is None:
            return False
        for thread in self._readers:
            thread.join(1)
        return True

    def close(self) -> None:
        """Close the nodes' input, which ends them."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended before
            self._process.stdin.close()

    def end(self, seconds: float) -> None:
        """Wait until the starter has ended; every `seconds` it is asked harder."""
        for how in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(seconds)
                return
            except subprocess.TimeoutExpired:
                how()
        self._process.wait()

    def _read(self, stream: TextIO, inbox: queue.Queue[tuple[str, Message]]) -> None:
        joiner = Joiner()
        for line in stream:
            try:
                whole = joiner.add(line)
            except ValueError:
                self._note(line)
                continue
            if whole is not None:
                inbox.put(whole)

    def _keep(self, stream: TextIO) -> None:
        for line in stream:
            self._note(line)

    def _note(self, line: str) -> None:
        if line.strip():
            self.said = [*self.said, line.strip()][-KEPT:]
