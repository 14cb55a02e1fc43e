"""The `condition:` section: what contradicts itself is said in the words of the keys."""

from __future__ import annotations

from typing import Any

import pytest

from threed_gen.config import validate
from threed_gen.errors import UserError
from threed_gen.models.conditioning.config import ConditionConfig, TextConfig


def test_defaults_are_the_released_model() -> None:
    config = ConditionConfig()
    assert config.encoder == "dinov2"
    assert config.source == "facebook/dinov2-with-registers-large"
    assert config.size == 518
    assert not config.sparse
    assert config.cache is None


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"encoder": "dino"}, "'encoder'"),
        ({"encoder": "patches", "size": 60}, "size 60 must be a multiple of patches.patch 8"),
        ({"encoder": "patches", "size": 64, "cache": "x"}, "trained along, leave the key out"),
        ({"cache": "x"}, "give variants .* or augment: false"),
        ({"augment": False, "variants": 3}, "variants has no effect while augment is false"),
        ({"variants": 0}, "'variants'"),
        ({"sise": 64}, "did you mean 'size'"),
        ({"patches": {"heads": 5}}, "'patches': heads 5 must divide channels 64"),
    ],
)
def test_contradictions_are_named(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        validate(ConditionConfig, tree, "run.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tree",
    [
        {"encoder": "patches", "size": 64},
        {"cache": "x", "variants": 4},
        {"cache": "x", "augment": False, "sparse": True, "precision": "bf16"},
        {"variants": 4},
    ],
)
def test_what_fits_is_taken(tree: dict[str, Any]) -> None:
    validate(ConditionConfig, tree, "run.yaml")


def test_text_defaults() -> None:
    assert TextConfig().source == "openai/clip-vit-large-patch14"
