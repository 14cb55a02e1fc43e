"""A colour for every procedural shape, so that pictures of them differ in more than outline."""

from __future__ import annotations

import colorsys

import numpy as np

from threed_gen.geometry.render.camera import uniform
from threed_gen.geometry.render.paint import Color, linear_from_srgb


def shape_color(digest: str) -> Color:
    """A colour drawn from a shape's hash: any hue, neither pale nor garish; linear light."""
    hue, saturation, value = uniform(f"{digest}/color", 3)
    srgb = colorsys.hsv_to_rgb(hue, 0.30 + 0.40 * saturation, 0.65 + 0.30 * value)
    r, g, b = (float(v) for v in linear_from_srgb(np.array(srgb)))
    return r, g, b, 1.0
