"""An exported run: read wherever a run is read only, refused where it is not what was asked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, create_autospec

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import HfApi
from safetensors import safe_open
from safetensors.torch import save_file

from tests.training import vae_runs
from threed_gen import cli
from threed_gen.config import to_yaml
from threed_gen.data.config import DataConfig
from threed_gen.errors import UserError
from threed_gen.files import write_json
from threed_gen.models.ss_vae import SSVAEConfig
from threed_gen.training import load
from threed_gen.training.encode import FrozenVAE
from threed_gen.training.export import export_run
from threed_gen.training.exported import whole_folder
from threed_gen.training.run_config import load_run_config

TINY = SSVAEConfig(
    encoder_widths=(4, 4, 8, 8), decoder_widths=(8, 8, 4, 4), latent_channels=3, encoder_blocks=1,
    decoder_blocks=1, heads=2,
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return vae_runs.write_run(tmp_path / "deep" / "run", TINY, [32], step=7)


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("weights", ["ema", "model"])
def test_an_export_loads_as_the_run_does(run: Path, tmp_path: Path, weights: str) -> None:
    out = tmp_path / "out"
    assert cli.main(["export", str(run), "--out", str(out), "--weights", weights]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md", "config.yaml", "weights.safetensors"
    ]  # fmt: skip
    before, after = load.load_vae(run, weights), load.load_vae(out, weights)
    assert same(before.model.state_dict(), after.model.state_dict())
    assert after.step == 7 and after.config == before.config
    assert FrozenVAE(out, weights).weights_sha256 == FrozenVAE(run, weights).weights_sha256
    other = "model" if weights == "ema" else "ema"
    with pytest.raises(UserError, match=f"with the weights '{weights}' alone, not '{other}'"):
        load.load_vae(out, other)


def test_an_export_of_an_export_is_the_same(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "a")
    export_run(tmp_path / "a", tmp_path / "b")
    for name in ("weights.safetensors", "config.yaml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_export_cannot_be_resumed_or_trained_into(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_run(run, tmp_path / "out")
    assert cli.main(["export", str(run), "--out", str(tmp_path / "out")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert cli.main(["resume", str(tmp_path / "out")]) == 2
    assert "no whole checkpoint" in capsys.readouterr().err


def test_a_run_with_checkpoints_is_not_mistaken_for_an_export(run: Path) -> None:
    (run / "weights.safetensors").write_bytes(b"something of the user's")
    assert load.load_vae(run).step == 7


def test_no_place_of_this_machine_is_told(run: Path, tmp_path: Path) -> None:
    config = load_run_config(run / "config.yaml")
    data = DataConfig(path=str(tmp_path / "secret" / "shards"), resolutions=[32])
    start = {"path": str(tmp_path / "secret" / "first")}
    tree = config.model_copy(update={"data": data}).model_dump(mode="json") | {"init_from": start}
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    write_json(run / "sources.json", {"ss_vae": {"run": "/home/secret/vae", "step": 3}})
    export_run(run, tmp_path / "out")
    written = load_run_config(tmp_path / "out" / "config.yaml")
    assert written.data.path == "shards"
    assert written.init_from is not None and written.init_from.path == "first"
    sources = (tmp_path / "out" / "sources.json").read_text()
    assert '"run": "vae"' in sources and '"step": 3' in sources
    for file in (tmp_path / "out").iterdir():
        assert b"secret" not in file.read_bytes(), file


def test_the_card_says_what_is_known(run: Path, tmp_path: Path) -> None:
    from tests.data.latents.sets import make_data

    card = export_run(run, tmp_path / "bare")
    bare = (tmp_path / "bare" / "README.md").read_text()
    assert card.data is None and "not at hand" in bare and "Not measured." in bare
    config = load_run_config(run / "config.yaml")
    data = make_data(tmp_path / "shapes", 3).path
    update = {"data": DataConfig(path=str(data), resolutions=[32])}
    (run / "config.yaml").write_text(to_yaml(config.model_copy(update=update)))
    write_json(run / "evaluation.json", {"mean": {"iou": 0.97188605, "source": {"cd": 2.5e-05}}})
    export_run(run, tmp_path / "full")
    text = (tmp_path / "full" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "threed-gen" and "ss_vae" in front["tags"]
    assert "| iou | 0.9719 |" in text and "| source.cd | 2.5e-05 |" in text
    assert "3 shapes of `" in text and "| none stated | 3 |" in text
    count = sum(p.numel() for p in load.load_vae(run).model.parameters())
    assert f"{count:,} parameters; resolution 32³" in text and "average" in text
    assert "--run full" in text and "arXiv:2505.17412" in text


def test_a_damaged_export_is_one_line(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_run(run, out)
    path = out / "weights.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(UserError, match=r"weights\.safetensors: damaged"):
        load.load_vae(out)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="init_from.path"):
        load.load_vae(out)
    path.write_bytes(whole)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        told = file.metadata()
    save_file(dict(list(tensors.items())[1:]), path, metadata=told)
    with pytest.raises(UserError, match="does not fit"):
        load.load_vae(out)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is as good as none
    with pytest.raises(FileNotFoundError), whole_folder(out, "it") as made:
        (made / "half").write_text((made / "absent").read_text())
    assert list(tmp_path.iterdir()) == [out] and not list(out.iterdir())
    with whole_folder(out, "it") as made:
        (made / "whole").write_text("x")
        assert not list(out.iterdir())
    assert [p.name for p in out.iterdir()] == ["whole"]
    with pytest.raises(UserError, match="is there already"), whole_folder(out, "it"):
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """A Hub that takes calls of the real signatures only."""
    api: MagicMock = create_autospec(HfApi, instance=True)
    api.upload_folder.return_value.commit_url = "https://hub/name/model/commit/1"
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    return api


def test_an_upload_is_one_private_repository(
    run: Path, tmp_path: Path, hub: MagicMock, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["export", str(run), "--out", str(out), "--to-hub", "name/model"]) == 0
    made, sent = hub.create_repo.call_args, hub.upload_folder.call_args
    assert inspect.signature(HfApi.create_repo).bind(None, *made.args, **made.kwargs)
    assert made.args == ("name/model",) and made.kwargs["private"] is True
    assert (sent.kwargs["repo_id"], sent.kwargs["folder_path"]) == ("name/model", out)
    assert "https://hub/name/model/commit/1" in capsys.readouterr().err


def test_a_refused_upload_leaves_the_folder(
    run: Path, tmp_path: Path, hub: MagicMock, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.upload_folder.side_effect = ConnectionError("no route\nto host")
    line: list[Any] = ["export", str(run), "--out", str(tmp_path / "out"), "--to-hub"]
    assert cli.main([*line, "name/model"]) == 2
    said = capsys.readouterr().err
    assert "was not uploaded to name/model (no route to host)" in said and "hf auth login" in said
    assert load.load_vae(tmp_path / "out").step == 7
    line[3] = str(tmp_path / "second")
    assert cli.main([*line, "no name"]) == 2
    assert "give USER/MODEL" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()
