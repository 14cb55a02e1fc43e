"""The promise of the chunked decode: beside its result, its memory does not grow with the shape."""

from __future__ import annotations

import pytest

from benchmarks.decode_memory import growth, measure, plate, released_decoder
from threed_gen.models.ss_vae import Decoder, SSVAEConfig


def test_plate_is_what_it_says() -> None:
    assert plate(23).num_voxels == 2 * 23 * 23
    assert plate(5).coords[:, 1].unique().tolist() == [3, 4]


@pytest.mark.long
def test_small_decoder_stays_within_bounds() -> None:
    """Four times the cells: a decode at once needs nearly four times the memory."""
    config = SSVAEConfig(
        decoder_widths=(32, 16, 8, 8), encoder_widths=(4, 4, 8, 8), heads=2, norm_groups=4
    )
    decoder = Decoder(config).eval()
    chunked = [measure(decoder, side, 8) for side in (23, 46)]
    whole = [measure(decoder, side, None) for side in (23, 46)]
    assert growth(chunked) < 0.05
    assert growth(whole) > 2


@pytest.mark.long
def test_released_decoder_grows_by_less_than_a_twentieth() -> None:
    """From 0.5 to 4 million voxels."""
    decoder = released_decoder()
    assert growth([measure(decoder, side, 8) for side in (23, 64)]) < 0.05
