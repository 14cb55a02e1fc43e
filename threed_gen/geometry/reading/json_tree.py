"""JSON from a file that cannot be trusted: every value is asked for by kind, and checked.

A missing key gives the default of the glTF specification; a value of another kind is a reject
that names its place.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, cast

from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.reading.reasons import reject

Tree = dict[str, Any]
_LARGEST = 1 << 53


def parse(text: bytes) -> Tree:
    """The object that a JSON text holds; NaN and Infinity are no JSON."""
    try:
        tree = json.loads(text.decode("utf-8-sig"), parse_constant=_no_number)
    except RecursionError:
        raise reject("unreadable", "has JSON that is nested too deep") from None
    except ValueError as err:  # also what is not UTF-8
        raise reject("unreadable", f"has JSON that cannot be read: {str(err)[:120]}") from None
    if not isinstance(tree, dict):
        raise reject("unreadable", "has JSON that is no glTF")
    return cast(Tree, tree)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def items(tree: Tree, key: str) -> list[Tree]:
    """A list of objects."""
    value = tree.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _wrong(key, "a list of objects")
    return value


def item(tree: Tree, key: str, number: int) -> Tree:
    """One object of a list."""
    found = tree.get(key, [])
    if not isinstance(found, list) or number >= len(found) or not isinstance(found[number], dict):
        raise reject("unreadable", f"names {key}[{number}], which does not exist")
    return cast(Tree, found[number])


def child(tree: Tree, key: str) -> Tree:
    """An object within an object."""
    value = tree.get(key, {})
    if not isinstance(value, dict):
        raise _wrong(key, "an object")
    return value


def whole(tree: Tree, key: str, default: int | None = None) -> int:
    """A number that counts something: whole, 0 or more, and small enough to be exact."""
    value = tree.get(key, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise _wrong(key, "a whole number")
    return value


def wholes(tree: Tree, key: str) -> list[int]:
    """A list of numbers that count something."""
    value = tree.get(key, [])
    if not isinstance(value, list):
        raise _wrong(key, "a list of whole numbers")
    return [whole({key: entry}, key) for entry in value]


def real(tree: Tree, key: str, count: int, default: list[float] | None) -> list[float] | None:
    """`count` real numbers; MeshError non_finite when one of them is beyond all measure."""
    value = tree.get(key)
    if value is None:
        return default
    if not isinstance(value, list) or len(value) != count:
        raise _wrong(key, f"{count} numbers")
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value):
        raise _wrong(key, f"{count} numbers")
    try:
        numbers = [float(v) for v in value]
    except OverflowError:
        numbers = [math.inf]
    if not all(map(math.isfinite, numbers)):
        raise reject("non_finite", f'has a "{key}" that is not finite')
    return numbers


def words(tree: Tree, key: str) -> list[str]:
    """A list of words."""
    value = tree.get(key, [])
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise _wrong(key, "a list of names")
    return value


def _wrong(key: str, kind: str) -> MeshError:
    return reject("unreadable", f'has a "{key}" that is not {kind}')
