"""cluster.yaml: every key typed, nothing unknown, one line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import LaunchError
from launcher.site import Site, load_site


def site(tmp_path: Path, text: str) -> Site:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return load_site(path)


def test_a_whole_file(tmp_path: Path) -> None:
    found = site(
        tmp_path,
        "account: lab\npartition: gpu\ninterface: ib0\nsetup: [module load gcc]\n"
        "environment: {NCCL_IB_TIMEOUT: 22, GLOO_SOCKET_IFNAME: eth1}\n"
        "container: {image: t.sif, mounts: [/data]}\n",
    )
    assert (found.account, found.partition, found.python) == ("lab", "gpu", None)
    assert found.container is not None and found.container.runtime == "apptainer"
    assert found.variables == {
        "NCCL_SOCKET_IFNAME": "ib0",
        "GLOO_SOCKET_IFNAME": "eth1",  # what is said wins
        "NCCL_IB_TIMEOUT": "22",
    }


def test_no_file_and_an_empty_one_are_the_defaults(tmp_path: Path) -> None:
    assert load_site(None) == site(tmp_path, "") == Site()
    assert Site().variables == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin: gpu", "unknown key 'partitoin', did you mean 'partition'"),
        ("container: {imgae: x}", "unknown key 'container.imgae', did you mean 'image'"),
        ("container: {}", "key 'container.image' is missing"),
        ("memory: 0", "'memory': Input should be a valid string (put it in quotes), got 0"),
        ("cpus_per_gpu: many", "cpus_per_gpu"),
        ("account: my lab", "'my lab' must be one word"),
        ("environment: {A-B: 1}", "'A-B' is no name"),
        ("environment: {A: 'x\n\n  y'}", "environment.A: must be one line"),
        ("options: [mail-type=END]", "should look like --mail-type=END"),
        ("options: [--nodes=3]", "decided by the launch itself"),
        ("- a", "expected 'key: value' lines"),
        ("a: [", "not valid YAML"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LaunchError) as caught:
        site(tmp_path, text)
    assert message in str(caught.value)
    assert str(tmp_path / "cluster.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"none\.yaml: No such file"):
        load_site(tmp_path / "none.yaml")
