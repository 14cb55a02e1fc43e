"""Captions as condition: a frozen CLIP or T5 text encoder, its tokens behind the same interface.

As in TRELLIS: the last hidden state of the text model, padding left out. A token's place is its
number in the caption, (number, 0, 0). An empty caption has the tokens of begin and end alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from threed_gen.models.conditioning.config import TextConfig
from threed_gen.models.conditioning.frozen import Frozen, from_source, load_frozen, transformers
from threed_gen.models.layers.cross_attention import PackedTokens

CLASSES = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel"}
KEY = "condition.text.source"


@dataclass(frozen=True)
class CaptionBatch:
    """Captions of B >= 1 samples."""

    captions: tuple[str, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> CaptionBatch:
        """Itself: words are on no device."""
        return self


class TextConditioner(nn.Module):
    """Captions -> condition tokens. It has no parameters: the encoder is frozen.

    Attributes:
        channels: width C of the tokens.
        trains: False.
        cut: captions so far that were longer than `max_tokens`, of which only the start was read.
    """

    trains = False

    def __init__(self, config: TextConfig) -> None:
        """Raises UserError when the source cannot be loaded."""
        super().__init__()
        self._encoder = Frozen(load_frozen(config.source, CLASSES, KEY), config.precision)
        self._tokenizer = from_source(
            transformers().AutoTokenizer.from_pretrained, config.source, KEY
        )
        settings = self._encoder.model.config
        self.channels = int(getattr(settings, "d_model", None) or settings.hidden_size)
        places = getattr(settings, "max_position_embeddings", None) or config.max_tokens
        self.max_tokens = min(config.max_tokens, places)
        self.cut = 0
        self.register_buffer("_where", torch.empty(0), persistent=False)  # follows `.to`

    def _tokenized(self, captions: Sequence[str]) -> list[list[int]]:
        """Numbers of each caption's tokens; of long ones the start, and the token of the end."""
        options = {"truncation": True, "max_length": self.max_tokens, "verbose": False}
        whole = self._tokenizer([*captions], verbose=False)["input_ids"]
        self.cut += sum(len(ids) > self.max_tokens for ids in whole)
        rows: list[list[int]] = self._tokenizer([*captions], **options)["input_ids"]
        return rows

    def forward(self, batch: CaptionBatch) -> PackedTokens:
        """Tokens of the captions, float32, without gradient, on the module's device."""
        assert isinstance(self._where, Tensor)
        device = self._where.device
        rows = self._tokenized(batch.captions)
        lengths = [len(ids) for ids in rows]
        ids = torch.zeros(len(rows), max(lengths, default=0), dtype=torch.long)
        mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]  # [B, T]
        ids[mask] = torch.tensor([number for row in rows for number in row])
        kept = mask.flatten().nonzero()[:, 0]
        with self._encoder.running(device) as model:
            hidden: Tensor = model(
                input_ids=ids.to(device), attention_mask=mask.long().to(device)
            ).last_hidden_state
        number = kept % ids.shape[1]
        places = torch.stack([number, 0 * number, 0 * number], dim=1).int()
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        feats = hidden.flatten(0, 1)[kept.to(device)].float()
        return PackedTokens(feats, starts.to(device), tuple(lengths), places.to(device))
