"""Captions: the tokens of `transformers`' own text models, padding left out."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
import torch

from threed_gen.errors import UserError
from threed_gen.models.conditioning.config import TextConfig
from threed_gen.models.conditioning.text import CaptionBatch, TextConditioner

LETTERS = string.ascii_lowercase
CAPTIONS = ["a chair", "", "an armchair with four long wooden legs", "cup"]


def save_tokenizer(folder: Path) -> None:
    """It knows single letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<start>": 0, "<end>": 1, "<unknown>": 2} | {c: 3 + i for i, c in enumerate(LETTERS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Split("", "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<start>", eos_token="<end>", pad_token="<end>",
        model_max_length=16,
    ).save_pretrained(folder)  # fmt: skip


def save_clip(folder: Path) -> Path:
    """A random CLIP text model of 16 places."""
    from transformers import CLIPTextConfig, CLIPTextModel

    save_tokenizer(folder)
    torch.manual_seed(0)
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=40, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=16, bos_token_id=0, eos_token_id=1,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_t5(folder: Path) -> Path:
    """A random T5, of which only the encoder is wanted. Its tokens look both ways."""
    from transformers import T5Config, T5ForConditionalGeneration

    save_tokenizer(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "d_model": 20, "d_kv": 8, "d_ff": 32, "num_layers": 2}
    model = T5ForConditionalGeneration(
        T5Config(**sizes, num_heads=2, pad_token_id=1, eos_token_id=1, decoder_start_token_id=1)
    )
    model.save_pretrained(folder)
    return folder


def numbers(caption: str, longest: int = 16) -> list[int]:
    inner = [3 + LETTERS.index(c) for c in caption if c != " "]
    return [0, *inner[: longest - 2], 1]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def test_tokens_are_those_of_each_caption_alone(clip: Path) -> None:
    from transformers import CLIPTextModel

    conditioner = TextConditioner(TextConfig(source=str(clip)))
    out = conditioner(CaptionBatch(tuple(CAPTIONS)))
    own = CLIPTextModel.from_pretrained(clip).eval()
    expected = [numbers(caption) for caption in CAPTIONS]
    assert out.seqlens == tuple(map(len, expected)) == (8, 2, 16, 5)
    assert conditioner.channels == 24
    assert conditioner.cut == 1
    assert out.positions is not None
    for ids, feats, places in zip(
        expected, out.feats.split(out.seqlens), out.positions.split(out.seqlens), strict=True
    ):
        with torch.no_grad():
            alone = own(torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(feats, alone, rtol=0, atol=1e-5)
        assert places.tolist() == [[i, 0, 0] for i in range(len(ids))]
    assert out.cu_seqlens.tolist() == [0, 8, 10, 26, 31]
    assert not out.feats.requires_grad


def test_padding_is_not_looked_at(tmp_path: Path) -> None:
    conditioner = TextConditioner(TextConfig(source=str(save_t5(tmp_path / "t5")), max_tokens=40))
    together = conditioner(CaptionBatch(tuple(CAPTIONS)))
    assert conditioner.channels == 20
    assert together.seqlens == tuple(len(numbers(caption, 40)) for caption in CAPTIONS)
    alone = torch.cat([conditioner(CaptionBatch((caption,))).feats for caption in CAPTIONS])
    torch.testing.assert_close(together.feats, alone, rtol=0, atol=1e-5)
    assert float(together.feats.std(0).mean()) > 0.1


def test_it_has_nothing_to_train_or_save(clip: Path) -> None:
    conditioner = TextConditioner(TextConfig(source=str(clip), max_tokens=6))
    assert not [*conditioner.parameters()]
    assert not conditioner.state_dict()
    assert conditioner(CaptionBatch(("a long caption",))).seqlens == (6,)


def test_another_model_is_refused(dino: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of type dinov2_with_registers, it must be clip or"):
        TextConditioner(TextConfig(source=str(dino)))
    with pytest.raises(UserError, match="no such folder"):
        TextConditioner(TextConfig(source=str(tmp_path / "none")))
