"""One tiny DINO for all tests of a process: importing `transformers` is the expensive part."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.conditioning.pictures import save_dino


@pytest.fixture(scope="session")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dino(tmp_path_factory.mktemp("dino") / "model")
