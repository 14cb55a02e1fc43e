"""Strict configs: unknown keys are errors with a suggestion, types are checked, parents merged."""

from __future__ import annotations

from pathlib import Path

import pytest

from threed_gen.config import Config, changes, load_config, to_yaml
from threed_gen.errors import UserError


class Inner(Config):
    rate: float = 0.5
    sizes: list[int] = [1, 2]
    betas: list[float] = [0.9, 0.99]
    note: str | None = None


class Outer(Config):
    steps: int = 10
    inner: Inner = Inner()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_defaults_and_overrides(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "steps: 20\ninner: {rate: 1e-3}\n")
    config = load_config(Outer, path, ["inner.sizes=[3]", "inner.note=hi", "inner.betas=[0, 1]"])
    assert config.steps == 20
    assert config.inner.rate == 1e-3  # YAML 1.1 reads 1e-3 as a string
    assert config.inner.sizes == [3]
    assert config.inner.note == "hi"
    assert config.inner.betas == [0.0, 1.0]


def test_extends_is_merged_section_by_section(tmp_path: Path) -> None:
    write(tmp_path / "parent.yaml", "steps: 5\ninner: {rate: 2.0, sizes: [7, 8]}\n")
    child = write(tmp_path / "child.yaml", "extends: parent.yaml\ninner: {sizes: [9]}\n")
    config = load_config(Outer, child)
    assert (config.steps, config.inner.rate, config.inner.sizes) == (5, 2.0, [9])


def test_extends_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "extends: b.yaml\n")
    write(tmp_path / "b.yaml", "extends: a.yaml\n")
    with pytest.raises(UserError, match="circle"):
        load_config(Outer, tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3\n", r"unknown key 'stepz', did you mean 'steps'\?"),
        ("inner: {rats: 1}\n", r"unknown key 'inner.rats', did you mean 'inner.rate'\?|'rate'"),
        ("qqq: 3\n", r"unknown key 'qqq' \(known here: inner, steps\)"),
        ("steps: many\n", r"'steps': .*integer.*got 'many'"),
        ("steps: 1.5\n", r"'steps'"),
        ("steps: true\n", r"'steps'"),
        ("inner: {rate: fast}\n", r"'inner.rate'.*'fast'"),
        ("inner: 3\n", r"'inner'"),
        ("- a\n- b\n", r"top level"),
        ("a: [1\n", r"not valid YAML"),
    ],
)
def test_bad_files_name_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.yaml", text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(Outer, path)
    assert "bad.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["steps", "=3", "steps=[1"])
def test_bad_overrides(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError, match="override"):
        load_config(Outer, write(tmp_path / "a.yaml", ""), [override])


def test_unsafe_yaml_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "evil.yaml", "steps: !!python/object/apply:os.getpid []\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(Outer, path)


def test_round_trip_and_diff(tmp_path: Path) -> None:
    base = load_config(Outer, write(tmp_path / "a.yaml", "steps: 1\n"))
    other = load_config(Outer, tmp_path / "a.yaml", ["inner.rate=0.25"])
    again = load_config(Outer, write(tmp_path / "b.yaml", to_yaml(other)))
    assert again == other
    assert changes(other, base) == ["inner.rate: 0.5 → 0.25"]
