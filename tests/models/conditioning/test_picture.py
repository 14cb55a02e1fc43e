"""Preparing pictures: every pixel as the released code has it, by hand; and what cannot be one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.conditioning import released
from tests.models.conditioning.pictures import random_rgba, transparent
from threed_gen.errors import UserError
from threed_gen.models.conditioning.augment import Augmentation
from threed_gen.models.conditioning.picture import prepare_picture, read_rgba


@pytest.mark.parametrize(
    ("height", "width", "size"), [(90, 61, 64), (61, 90, 32), (33, 30, 64), (700, 401, 518)]
)
def test_every_pixel_as_by_hand(height: int, width: int, size: int) -> None:
    rgba = random_rgba(height, width, seed=height)
    expected = released.framed(*released.square(rgba), size, round(16 * size / 518))
    picture = prepare_picture(rgba, size)
    assert picture.dtype == torch.float32
    assert picture.shape == (4, size, size)
    assert picture.is_contiguous()
    assert np.array_equal(picture.numpy(), expected)


def test_margin_is_16_pixels_at_the_released_size() -> None:
    picture = prepare_picture(np.full((518, 518, 4), [0, 0, 0, 255], np.uint8), 518)
    # 550 pixels become 518: the 518 of them that are black become 487.9
    assert (picture[3] > 0).sum(1).max() == 488
    assert picture[3, 15, 15] == 1
    assert picture[3, 14].sum() == 0


def test_shrinking_averages_and_the_mask_does_not() -> None:
    stripes = np.zeros((512, 512, 4), np.uint8)
    stripes[:, ::2, :3] = 255
    stripes[..., 3] = 255
    picture = prepare_picture(stripes, 64)
    inner = picture[:, 8:-8, 8:-8]
    assert (inner[:3] - 0.5).abs().max() < 0.02  # a filter of one pixel would give 0 or 1
    assert set(picture[3].unique().tolist()) == {0.0, 1.0}


def test_a_picture_of_nothing_is_white_without_a_mask() -> None:
    picture = prepare_picture(transparent(), 64)
    assert torch.equal(picture[:3], torch.ones(3, 64, 64))
    assert picture[3].sum() == 0


def test_a_few_visible_pixels_are_not_blown_up() -> None:
    rgba = transparent(64)
    rgba[5, 7] = (10, 20, 30, 255)  # 1 of 4096 pixels, less than 0.1 %
    expected = released.framed(*released.square(rgba, cropped=False), 64, 2)
    assert np.array_equal(prepare_picture(rgba, 64).numpy(), expected)


def test_what_is_under_transparent_pixels_does_not_matter() -> None:
    rgba = random_rgba(50, 40)
    other = rgba.copy()
    other[rgba[..., 3] == 0, :3] = 77
    assert torch.equal(prepare_picture(rgba, 32), prepare_picture(other, 32))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.float32),
        np.zeros((0, 4, 4), np.uint8),
    ],
)
def test_what_is_no_rgba_is_refused_in_one_line(wrong: Any) -> None:
    with pytest.raises(UserError, match=r"it must be uint8 \[H, W, 4\]") as caught:
        prepare_picture(wrong, 32)
    assert "\n" not in str(caught.value)


# --- augmentation --------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0, 5, 32])
def test_margin(margin: int) -> None:
    rgba = random_rgba(60, 50)
    expected = released.framed(*released.square(rgba), 259, round(margin / 2))
    assert np.array_equal(prepare_picture(rgba, 259, Augmentation(margin)).numpy(), expected)


def test_crop() -> None:
    rgba = random_rgba(80, 70)
    rgb, mask = released.square(rgba)
    side = int(len(rgb) * 0.93)
    room = len(rgb) - side + 1
    top, left = int(0.7 * room), int(0.2 * room)
    assert (top, left) != (0, 0)
    part = slice(top, top + side), slice(left, left + side)
    expected = released.framed(rgb[part], mask[part], 64, 2)
    shown = prepare_picture(rgba, 64, Augmentation(16, 0.0, 0.93, (0.7, 0.2)))
    assert np.array_equal(shown.numpy(), expected)


def test_rotation_by_a_right_angle_and_by_a_little() -> None:
    rgba = random_rgba(64, 64)
    rgba[..., 3] = 255
    turned = prepare_picture(rgba, 64, Augmentation(0, 90.0))
    by_hand = prepare_picture(np.ascontiguousarray(np.rot90(rgba)), 64, Augmentation(0))
    assert torch.equal(turned, by_hand)
    # a point right of the middle goes up, and white without a mask comes in at the corners
    dot = np.full((65, 65, 4), 255, np.uint8)
    dot[31:34, 56:59, :3] = 0
    little = prepare_picture(dot, 65, Augmentation(0, 10.0))
    dark = (little[0] < 0.5).nonzero().float().mean(0)
    angle = np.deg2rad(10.0)
    assert abs(dark[0] - (32 - 25 * np.sin(angle))) < 0.6
    assert abs(dark[1] - (32 + 25 * np.cos(angle))) < 0.6
    assert little[:, 0, 0].tolist() == [1, 1, 1, 0]


# --- files ---------------------------------------------------------------------------------------


def test_images_of_any_kind_become_rgba(tmp_path: Path) -> None:
    rgba = random_rgba(20, 30)
    colour = Image.fromarray(rgba).convert("RGB")
    few = colour.quantize(8)
    see_through = few.copy()
    see_through.info["transparency"] = 3
    alpha = Image.fromarray(rgba[..., 3])
    grey = colour.convert("L")
    cases: dict[str, tuple[Image.Image, np.ndarray[Any, Any], Any]] = {
        "rgba.png": (Image.fromarray(rgba), rgba[..., :3], rgba[..., 3]),
        "rgb.png": (colour, np.array(colour), 255),
        "grey.png": (grey, np.array(grey)[..., None], 255),
        "grey_alpha.png": (
            Image.merge("LA", (grey, alpha)), np.array(grey)[..., None], rgba[..., 3],
        ),
        "palette.png": (few, np.array(few.convert("RGB")), 255),
        "palette_alpha.png": (
            see_through, np.array(few.convert("RGB")), np.where(np.array(few) == 3, 0, 255),
        ),
        "lossless.webp": (Image.fromarray(rgba), rgba[..., :3], rgba[..., 3]),
    }  # fmt: skip
    for name, (image, rgb, mask) in cases.items():
        image.save(tmp_path / name, lossless=True, exact=True)
        read = read_rgba(tmp_path / name)
        assert read.dtype == np.uint8
        assert read.shape == (20, 30, 4), name
        assert np.array_equal(read[..., :3], np.broadcast_to(rgb, (20, 30, 3))), name
        assert np.array_equal(read[..., 3], np.broadcast_to(mask, (20, 30))), name


def test_without_transparency_all_is_foreground(tmp_path: Path) -> None:
    Image.fromarray(random_rgba(30, 30)).convert("RGB").save(tmp_path / "photo.jpg")
    picture = prepare_picture(read_rgba(tmp_path / "photo.jpg"), 64)
    assert picture[3, 2:-2, 2:-2].min() == 1


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    rgb = random_rgba(20, 30)[..., :3].copy()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_rgba(tmp_path / "a.png")[..., :3], np.rot90(rgb, -1))


def test_bad_files_are_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = tmp_path / "good.png"
    Image.fromarray(random_rgba(64, 64)).save(good)
    bad = {
        "half.png": (good.read_bytes()[:3000], "damaged image"),
        "text.png": (b"no image at all", "no PNG, JPEG or WebP"),
        "empty.png": (b"", "no PNG, JPEG or WebP"),
    }
    for name, (content, _) in bad.items():
        (tmp_path / name).write_bytes(content)
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    cases = {name: why for name, (_, why) in bad.items()}
    cases |= {"deep.png": "8 bits", "none.png": "no such image file"}
    for name, why in cases.items():
        with pytest.raises(UserError, match=why) as caught:
            read_rgba(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr("threed_gen.models.conditioning.picture.MOST_PIXELS", 4000)
    with pytest.raises(UserError, match="64 x 64 pixels, make it smaller"):
        read_rgba(good)
