"""How a picture may be shown differently each time: framing, a slight turn, a slight crop.

As in the released code: 0 to 32 pixels of extra margin (16 when testing), in 10 % of the cases a
rotation by up to 10 degrees, in 10 % a square crop of 0.9 to 1.0 of the side. Only the numbers are
drawn here; `picture.prepare_picture` applies them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

MARGIN = 16  # pixels at each side of a 518² picture, when testing
MAX_MARGIN = 32
CHANCE = 0.1  # of a rotation, and again of a crop
MAX_ANGLE = 10.0  # degrees
LEAST_SHARE = 0.9


@dataclass(frozen=True)
class Augmentation:
    """One way to show a picture; the default is that of testing.

    Attributes:
        margin: pixels added at each side of a 518² picture; in proportion for other sizes.
        angle: degrees, counter-clockwise.
        share: side of the square crop, as a share of the picture's.
        corner: (row, column) of the crop's first pixel, in [0, 1) of the room there is.
    """

    margin: int = MARGIN
    angle: float = 0.0
    share: float = 1.0
    corner: tuple[float, float] = (0.0, 0.0)


def draw_augmentation(generator: torch.Generator) -> Augmentation:
    """Seven uniform numbers, always, and what they mean."""
    drawn = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
    margin, turned, angle, cropped, share, row, column = drawn
    return Augmentation(
        margin=int(margin * (MAX_MARGIN + 1)),
        angle=(2 * angle - 1) * MAX_ANGLE if turned < CHANCE else 0.0,
        share=1 - share * (1 - LEAST_SHARE) if cropped < CHANCE else 1.0,
        corner=(row, column),
    )
