"""What a sample is shown with: one of its pictures, or its caption.

A `ConditionReader` lives in the loader's workers. It draws what is shown from (seed, step, place in
the global batch), and packs the items of a batch for the run's conditioner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from torch import device, randint

from threed_gen.data.dataset import SDFDataset
from threed_gen.data.index import SampleEntry
from threed_gen.data.views.view_set import ViewSet
from threed_gen.errors import UserError
from threed_gen.models.conditioning.conditioner import Conditioner, build_conditioner
from threed_gen.models.conditioning.config import ConditionConfig
from threed_gen.models.conditioning.source import PictureBatch, PictureItem, PictureSource
from threed_gen.models.conditioning.text import CaptionBatch, TextConditioner
from threed_gen.randomness import generator
from threed_gen.training.tasks.base import Panel

AnyConditioner = Conditioner | TextConditioner
CAPTION = "caption"  # the tag of a sample's row in the index


class ShownBatch(Protocol):
    """What a conditioner takes for the samples of a batch."""

    def to(self, device: device | str, non_blocking: bool = False) -> ShownBatch:
        """The same on another device."""
        ...


class ConditionReader(Protocol):
    """Reads and packs what samples are shown with. It can be pickled."""

    def draw(self, sample: SampleEntry, step: int, position: int) -> Any:
        """What a sample is shown with at place `position` of step `step`."""
        ...

    def fixed(self, sample: SampleEntry) -> Any:
        """The same always, for validation."""
        ...

    def blank(self) -> Any:
        """Something that says nothing, for a batch that only keeps ranks in step."""
        ...

    def pack(self, items: Sequence[Any]) -> ShownBatch:
        """The items of a batch, one for each sample."""
        ...

    def panels(self, sample: SampleEntry) -> list[Panel]:
        """What `fixed` shows, for people."""
        ...

    def note(self, sample: SampleEntry) -> str:
        """The same in words, where words are what it is."""
        ...


@dataclass(frozen=True)
class PictureReader:
    """Another view in every step, shown a little differently where the config says so.

    The first `held_out` views of each shape are never drawn.
    """

    views: ViewSet
    source: PictureSource
    seed: int
    held_out: int = 0

    def draw(self, sample: SampleEntry, step: int, position: int) -> PictureItem:
        """A drawn view, with a drawn augmentation."""
        draw = partial(generator, self.seed, step)
        count = self.views.count(sample.id) - self.held_out
        if count < 1:
            raise UserError(
                f"sample '{sample.id}' has {self.views.count(sample.id)} views, and "
                f"condition.held_out_views = {self.held_out} leaves none to train on; prepare more "
                "views, or lower the key"
            )
        number = randint(count, (), generator=draw("view", position))
        view = self.views.load(sample.id, self.held_out + int(number))
        return self.source.read(view.rgba, view.sha256, draw("augmentation", position))

    def fixed(self, sample: SampleEntry) -> PictureItem:
        """The first view as it is."""
        view = self.views.load(sample.id, 0)
        return self.source.read(view.rgba, view.sha256)

    def blank(self) -> PictureItem:
        """A white picture."""
        return self.source.read(np.full((8, 8, 4), 255, np.uint8))

    def pack(self, items: Sequence[PictureItem]) -> PictureBatch:
        """With every index that the conditioner will want."""
        return self.source.pack(items)

    def panels(self, sample: SampleEntry) -> list[Panel]:
        """The first view."""
        return [Panel("image", self.views.load(sample.id, 0).rgba, is_truth=True)]

    def note(self, sample: SampleEntry) -> str:
        """Nothing: a picture speaks for itself."""
        return ""


@dataclass(frozen=True)
class CaptionReader:
    """The caption that the data set's index has of a sample, always whole."""

    def draw(self, sample: SampleEntry, step: int, position: int) -> str:
        """A sample has one caption."""
        return self.fixed(sample)

    def fixed(self, sample: SampleEntry) -> str:
        """The caption."""
        caption = caption_of(sample)
        assert caption is not None, f"{sample.id}: was to be left out"
        return caption

    def blank(self) -> str:
        """The empty caption: the tokens of begin and end alone."""
        return ""

    def pack(self, items: Sequence[str]) -> CaptionBatch:
        """As words still: the tokens are made where the text encoder is."""
        return CaptionBatch(tuple(items))

    def panels(self, sample: SampleEntry) -> list[Panel]:
        """None."""
        return []

    def note(self, sample: SampleEntry) -> str:
        """The caption, in quotation marks."""
        return f"“{self.fixed(sample)}”"


class Shown:
    """What the samples of a data set are shown with, looked at once; readers share it."""

    def __init__(self, config: ConditionConfig, dataset: SDFDataset) -> None:
        """Raises UserError if the condition is pictures and the data set has no views."""
        # Once: opening reads the whole table, and every choice of the samples has the same one.
        self._views = None if config.encoder == "text" else ViewSet(dataset.path)
        self._held_out = config.held_out_views

    @property
    def rule(self) -> str:
        """What a sample lacks that is left out."""
        return "no caption" if self._views is None else "no views"

    def missing(self, dataset: SDFDataset) -> Mapping[str, str]:
        """Samples that nothing can be shown with: id, and why."""
        samples = dataset.index.samples
        if self._views is None:
            return {s.id: "no caption in the index" for s in samples if caption_of(s) is None}
        seen = set(self._views.samples)
        return {s.id: "no views" for s in samples if s.id not in seen}

    def reader(self, conditioner: AnyConditioner, seed: int) -> ConditionReader:
        """The reader for a conditioner of the same config."""
        if self._views is None:
            return CaptionReader()
        assert isinstance(conditioner, Conditioner)
        return PictureReader(self._views, conditioner.source, seed, self._held_out)


def caption_of(sample: SampleEntry) -> str | None:
    """The caption that a table gave to a sample; None where there is none, or only blanks."""
    caption = sample.tags.get(CAPTION)
    return caption if isinstance(caption, str) and caption.strip() else None


def conditioner_of(config: ConditionConfig) -> AnyConditioner:
    """The conditioner that a config describes; errors as `build_conditioner`'s."""
    return TextConditioner(config.text) if config.encoder == "text" else build_conditioner(config)
