"""Files of strangers: nothing in them is run, and whatever is wrong is one line."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from threed_gen.errors import UserError
from threed_gen.models.official.folder import read_config, read_parts, write_parts


class Attack:
    """Unpickled by a reader that trusts, it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("how", ["torch", "torch, old format", "pickle"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    target, path = tmp_path / "made", tmp_path / "model_dense.ckpt"
    tree = {"vae": {"a": torch.zeros(2)}, "dit": Attack(target)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(tree))
    else:
        torch.save(tree, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(UserError) as caught:
        read_parts(path)
    assert not target.exists()
    said = str(caught.value)
    assert said.startswith(f"{path}: refused: not a file of tensors alone")
    assert how == "pickle" or "mkdir" in said
    assert "nothing in it was run" in said and "\n" not in said
    # The proof that the file is dangerous: a reader that trusts runs it.
    if how == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert target.is_dir()


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    state = {"a": torch.randn(3, 4).half(), "b": torch.randn(5)}
    write_parts(path, {"vae": state})
    back = read_parts(path)
    assert list(back) == ["vae"]
    assert all(torch.equal(back["vae"][name], state[name]) for name in state)
    assert [p.name for p in tmp_path.iterdir()] == ["model.ckpt"]
    torch.save({"dit": state}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_parts(path)["dit"]["b"], state["b"])


def broken_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "no tensors")


def shortened(path: Path) -> None:
    write_parts(path, {"vae": {"a": torch.zeros(4000)}})
    path.write_bytes(path.read_bytes()[:9000])


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
        lambda path: path.write_bytes(os.urandom(300)),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"vae": torch.zeros(2)}, path),
        lambda path: torch.save({"vae": {3: torch.zeros(2)}}, path),
        broken_zip,
        shortened,
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "model_dense.ckpt"
    write(path)
    with pytest.raises(UserError) as caught:
        read_parts(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model_dense\.ckpt: no such file"):
        read_parts(tmp_path / "model_dense.ckpt")
    with pytest.raises(UserError, match=r"config\.yaml: no such file; give the folder"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no section"),
        ("a: [1", "not valid YAML"),
        ("- 1\n- 2", "has no section"),
        ("dense_vae: 3", "'dense_vae' has no"),
        ("dense_vae: {params: [1]}", "'dense_vae' has no"),
        ("dense_vae: !!python/object/apply:os.mkdir [made]", "not valid YAML"),
        ("x" * (1 << 20) + ": 1", "bytes"),
        ("[" * 500, "not valid YAML"),
    ],
)
def test_a_config_that_is_none_is_one_line(
    tmp_path: Path, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        read_config(tmp_path)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()
