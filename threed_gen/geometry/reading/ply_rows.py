"""The rows of a .ply: tables of numbers in which a column may be a list of varying length.

Where every list of an element has the length of the first one (all faces are triangles), the rows
are one table and read at once; otherwise they are walked one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.reading.reasons import reject
from threed_gen.geometry.reading.text import numbers

Lists = tuple[NDArray[np.int64], NDArray[np.int64]]  # length of each, and all their numbers


@dataclass(frozen=True)
class Column:
    """A property: one number per row, or a list when `size` names the type of its length."""

    name: str
    kind: str  # NumPy's code without byte order, for example f4
    size: str | None = None


class Rows(Protocol):
    """The rows of a file, taken element by element from the front."""

    def smallest(self, columns: Sequence[Column]) -> int:
        """Least room that one row can take, in the unit of `left`."""
        ...

    def left(self) -> int: ...

    def scalars(
        self, columns: Sequence[Column], count: int, names: Sequence[str]
    ) -> list[NDArray[np.float64]]:
        """Some columns of the next `count` rows."""
        ...

    def lists(self, columns: Sequence[Column], count: int, names: Sequence[str]) -> Lists:
        """The list column of the next `count` rows that has one of the names."""
        ...

    def skip(self, columns: Sequence[Column], count: int) -> None: ...


class BinaryRows:
    """Rows as bytes."""

    def __init__(self, content: bytes, start: int, order: str) -> None:
        self.content, self.at, self.order = content, start, order

    def smallest(self, columns: Sequence[Column]) -> int:
        return sum(np.dtype(column.size or column.kind).itemsize for column in columns)

    def left(self) -> int:
        return len(self.content) - self.at

    def scalars(
        self, columns: Sequence[Column], count: int, names: Sequence[str]
    ) -> list[NDArray[np.float64]]:
        if any(column.size for column in columns):
            raise reject("unreadable", "has vertices with lists, which cannot be read")
        table = self._table(columns, [], count)
        return [table[f"c{_place(columns, name)}"].astype(np.float64) for name in names]

    def lists(self, columns: Sequence[Column], count: int, names: Sequence[str]) -> Lists:
        wanted = _place(columns, *names, lists=True)
        lengths = self._first_lengths(columns)
        size = self._dtype(columns, lengths).itemsize * count
        if size <= self.left():
            start = self.at
            table = self._table(columns, lengths, count)
            have = [i for i, column in enumerate(columns) if column.size]
            if all((table[f"n{i}"] == n).all() for i, n in zip(have, lengths, strict=True)):
                length = lengths[have.index(wanted)]
                sizes = np.full(count, length, dtype=np.int64)
                return sizes, table[f"c{wanted}"].reshape(-1).astype(np.int64)
            self.at = start
        return self._walk(columns, count, wanted)

    def skip(self, columns: Sequence[Column], count: int) -> None:
        if any(column.size for column in columns):
            self._walk(columns, count, -1)
        else:
            self._table(columns, [], count)

    def _table(self, columns: Sequence[Column], lengths: list[int], count: int) -> NDArray[np.void]:
        dtype = self._dtype(columns, lengths)
        if dtype.itemsize == 0 or count == 0:
            return np.zeros(count if dtype.itemsize else 0, dtype)
        table = np.frombuffer(self.content, dtype, count, self.at)
        self.at += table.nbytes
        return table

    def _dtype(self, columns: Sequence[Column], lengths: list[int]) -> np.dtype[np.void]:
        fields: list[tuple[str, str] | tuple[str, str, int]] = []
        rest = iter(lengths)
        for i, column in enumerate(columns):
            if column.size:
                fields.append((f"n{i}", self.order + column.size))
                fields.append((f"c{i}", self.order + column.kind, (next(rest),)))  # type: ignore[arg-type]
            else:
                fields.append((f"c{i}", self.order + column.kind))
        return np.dtype(fields)

    def _first_lengths(self, columns: Sequence[Column]) -> list[int]:
        """How long the lists of the next row are."""
        lengths: list[int] = []
        at = self.at
        for column in columns:
            width = np.dtype(column.kind).itemsize
            if column.size:
                lengths.append(self._length(column, at))
                at += np.dtype(column.size).itemsize + lengths[-1] * width
            else:
                at += width
        return lengths

    def _length(self, column: Column, at: int) -> int:
        size = np.dtype(self.order + (column.size or ""))
        if at + size.itemsize > len(self.content):
            raise reject("unreadable", "is cut off")
        length = int(np.frombuffer(self.content, size, 1, at)[0])
        left = len(self.content) - at - size.itemsize
        if not 0 <= length * np.dtype(column.kind).itemsize <= left:
            raise reject("unreadable", f"has a list of {length:,} numbers, more than there are")
        return length

    def _walk(self, columns: Sequence[Column], count: int, wanted: int) -> Lists:
        sizes = np.zeros(count, dtype=np.int64)
        found: list[NDArray[np.int64]] = []
        for row in range(count):
            for i, column in enumerate(columns):
                width = np.dtype(column.kind).itemsize
                if column.size:
                    length = self._length(column, self.at)
                    self.at += np.dtype(column.size).itemsize
                    if i == wanted:
                        kind = np.dtype(self.order + column.kind)
                        values = np.frombuffer(self.content, kind, length, self.at)
                        found.append(values.astype(np.int64))
                        sizes[row] = length
                    self.at += length * width
                else:
                    self.at += width
        if self.at > len(self.content):
            raise reject("unreadable", "is cut off")
        return sizes, np.concatenate([*found, np.zeros(0, dtype=np.int64)])


class TextRows:
    """Rows as text: all numbers of the file, one behind the other."""

    def __init__(self, content: bytes) -> None:
        self.numbers = numbers(content)
        self.at = 0

    def smallest(self, columns: Sequence[Column]) -> int:
        return len(columns)

    def left(self) -> int:
        return len(self.numbers) - self.at

    def scalars(
        self, columns: Sequence[Column], count: int, names: Sequence[str]
    ) -> list[NDArray[np.float64]]:
        if any(column.size for column in columns):
            raise reject("unreadable", "has vertices with lists, which cannot be read")
        table = self._take(count * len(columns)).reshape(count, len(columns))
        places = [_place(columns, name) for name in names]
        # Text may have more digits than its type: every format of one mesh gives the same mesh.
        return [table[:, i].astype(columns[i].kind).astype(np.float64) for i in places]

    def lists(self, columns: Sequence[Column], count: int, names: Sequence[str]) -> Lists:
        return self._walk(columns, count, _place(columns, *names, lists=True))

    def skip(self, columns: Sequence[Column], count: int) -> None:
        if columns:
            self._walk(columns, count, -1)

    def _walk(self, columns: Sequence[Column], count: int, wanted: int) -> Lists:
        sizes = np.zeros(count, dtype=np.int64)
        starts = np.zeros(count, dtype=np.int64)
        for row in range(count):
            for i, column in enumerate(columns):
                if not column.size:
                    self.at += 1
                    continue
                length = self._length()
                if i == wanted:
                    sizes[row], starts[row] = length, self.at
                self.at += length
        if self.at > len(self.numbers):
            raise reject("unreadable", "is cut off")
        where = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
        values = self.numbers[where]
        if not (values == np.round(values)).all() or (np.abs(values) > 2**53).any():
            raise reject("unreadable", "has faces with something other than vertex numbers")
        return sizes, values.astype(np.int64)

    def _length(self) -> int:
        if self.at >= len(self.numbers):
            raise reject("unreadable", "is cut off")
        length = self.numbers[self.at]
        self.at += 1
        if not (0 <= length <= len(self.numbers) - self.at and length == int(length)):
            raise reject("unreadable", f"has a list of {length:g} numbers")
        return int(length)

    def _take(self, count: int) -> NDArray[np.float64]:
        values = self.numbers[self.at : self.at + count]
        self.at += count
        if len(values) < count:
            raise reject("unreadable", "is cut off")
        return values


def _place(columns: Sequence[Column], *names: str, lists: bool = False) -> int:
    """The number of the column with one of the names."""
    for i, column in enumerate(columns):
        if column.name in names and bool(column.size) == lists:
            return i
    raise reject("unreadable", f'has no column "{names[0]}" where one is needed')
