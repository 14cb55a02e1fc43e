"""Slurm's short forms, read without `scontrol`."""

from __future__ import annotations

import pytest

from launcher.hostlist import expand, shorten, tasks_per_node


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("gpu[08-10,12],login", ["gpu08", "gpu09", "gpu10", "gpu12", "login"]),
        ("a-1,b[2,4]-ib", ["a-1", "b2-ib", "b4-ib"]),
        ("r[1-2]n[01-02]", ["r1n01", "r1n02", "r2n01", "r2n02"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
    ],
)
def test_every_name_in_order(text: str, names: list[str]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize("text", ["n[1-", "n[a-b]", "n[1-2]]", "n[]"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a list"):
        expand(text)


def test_tasks_of_each_node() -> None:
    assert tasks_per_node("4(x2),3") == [4, 4, 3]
    with pytest.raises(ValueError, match="how many tasks"):
        tasks_per_node("many")


def test_many_names_are_shortened() -> None:
    assert shorten(["a", "b"]) == "a b"
    assert shorten([f"n{i}" for i in range(64)]) == "n0 n1 n2 … n62 n63"
