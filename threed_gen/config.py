"""Strict, typed configuration: one YAML per run, `extends:`, `key=value` overrides.

Every section is a pydantic model derived from `Config`. An unknown key is an error with a
suggestion, a wrong type names the key, and the merged result can be shown as a diff against its
parent. The sections themselves live beside what they configure (the model's in `models/`, the
data's in `data/`); `training/run_config.py` puts them together.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from threed_gen.errors import UserError


class Config(BaseModel):
    """Base of every config section: frozen, no unknown keys, no silent type coercion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


C = TypeVar("C", bound=Config)
Tree = dict[str, Any]


def load_config(kind: type[C], path: Path, overrides: Sequence[str] = ()) -> C:
    """Read `path` (following `extends:`), apply `a.b=value` overrides, validate as `kind`."""
    return validate(kind, read_config_tree(path, overrides), source=str(path))


def read_config_tree(path: Path, overrides: Sequence[str] = ()) -> Tree:
    """The raw tree of `path` over its parents, with the overrides in it; not validated yet."""
    tree = read_tree(path)
    for override in overrides:
        tree = merge(tree, parse_override(override))
    return tree


def read_tree(path: Path, _seen: tuple[Path, ...] = ()) -> Tree:
    """The raw tree of a YAML file merged over its parent; `extends` is relative to the file."""
    if not path.is_file():
        raise UserError(f"{path}: no such config file")
    if path.resolve() in _seen:
        raise UserError(f"{path}: 'extends' runs in a circle")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(err).split())}") from err
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected 'key: value' lines at the top level")
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise UserError(f"{path}: 'extends' must be one path, got {parent!r}")
    return merge(read_tree(path.parent / parent, (*_seen, path.resolve())), tree)


def merge(base: Tree, over: Mapping[str, Any]) -> Tree:
    """`over` on top of `base`, section by section; lists and scalars are replaced whole."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, Mapping)
        result[key] = merge(old, value) if both and isinstance(old, dict) else value
    return result


def parse_override(text: str) -> Tree:
    """`train.steps=100` → `{"train": {"steps": 100}}`; the value is read as YAML."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise UserError(f"override {text!r}: expected key=value, for example train.steps=100")
    try:
        leaf: Any = yaml.safe_load(value) if value else ""
    except yaml.YAMLError as err:
        raise UserError(f"override {text!r}: the value is not valid YAML") from err
    for part in reversed(key.strip().split(".")):
        leaf = {part: leaf}
    return leaf


def validate(kind: type[C], tree: Mapping[str, Any], source: str) -> C:
    """Check a raw tree against `kind`; all problems are reported in one `UserError`."""
    try:
        return kind.model_validate(_floats(kind, tree))
    except ValidationError as err:
        problems = [_explain(detail, kind) for detail in err.errors()]
        raise UserError(f"{source}: " + "; ".join(problems)) from err


def to_yaml(config: Config) -> str:
    """The whole config, defaults included, as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def changes(config: Config, parent: Config) -> list[str]:
    """The leaves in which `config` differs from `parent`, as `key: old → new` lines."""
    new, old = _leaves(config.model_dump(mode="json")), _leaves(parent.model_dump(mode="json"))
    keys = list(new) + [key for key in old if key not in new]
    return [
        f"{key}: {old.get(key, '(absent)')} → {new.get(key, '(absent)')}"
        for key in keys
        if new.get(key) != old.get(key)
    ]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            result.update(_leaves(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def _floats(kind: Any, tree: Any) -> Any:
    """YAML reads 1e-3 as a string and 1 as an integer; strict models want floats there."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(tree, Mapping)):
        return tree
    result = dict(tree)
    for name, field in kind.model_fields.items():
        if name not in result:
            continue
        value, annotation = result[name], field.annotation
        if _wants_float(annotation):
            result[name] = _as_float(value)
        elif isinstance(value, list):
            items = [_as_float(v) for v in value] if "float" in str(annotation) else value
            result[name] = tuple(items) if "tuple" in str(annotation) else items
        else:
            result[name] = _floats(_model_in(annotation), value)
    return result


def _wants_float(annotation: Any) -> bool:
    return annotation is float or (
        float in getattr(annotation, "__args__", ()) and "tuple" not in str(annotation)
    )


def _as_float(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _model_in(annotation: Any) -> Any:
    """`Section` out of `Section`, `Section | None` or `Optional[Section]`."""
    for part in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _explain(detail: ErrorDetails, kind: type[BaseModel]) -> str:
    path = [str(part) for part in detail["loc"]]
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        section: Any = kind
        for part in path[:-1]:
            field = section.model_fields.get(part) if section is not None else None
            section = _model_in(field.annotation) if field is not None else None
        known = list(section.model_fields) if section is not None else []
        close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        if close:
            return f"unknown key '{key}', did you mean '{close[0]}'?"
        return f"unknown key '{key}' (known here: {', '.join(sorted(known))})"
    if detail["type"] == "missing":
        return f"key '{key}' is missing"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"'{key}': {message}" if key else message
    return f"'{key}': {message}, got {detail['input']!r}"
