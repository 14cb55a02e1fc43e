"""The pictures of prepared data: a contact sheet, and the samples farthest from their source.

What is drawn is the surface that marching cubes finds in the stored grid: the shape as training
will see it. However many samples there are, the page holds at most `MOST_STILLS` pictures, evenly
spread over the index, and `MOST_SOLIDS` meshes that can be turned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from threed_gen.data.index import SampleEntry
from threed_gen.report.data_folder import (
    DataFolder,
    figure,
    grid_figures,
    sheet_share,
    source_distance,
)
from threed_gen.report.data_pictures import Drawn, Wish, draw, wish
from threed_gen.report.gallery import spread
from threed_gen.report.shapes import toolbar
from threed_gen.report.text import json_script, number, plain

MOST_STILLS = 120
MOST_SOLIDS = 10
MOST_VOXELS = 120_000_000  # of the band, in all stills together: keeps huge grids quick as well
DRAWN_AT = 128  # a picture shows no more than this resolution has
LOOKS = (("clay", "Clay"), ("edges", "Edges"), ("normals", "Normals"))
SORTS = (("", "as listed"), ("tokens", "tokens"), ("sheet", "sheet"), ("far", "distance"))


def picture_sections(data: DataFolder) -> tuple[str, str]:
    """The contact sheet and the worst samples, as HTML; both are drawn side by side."""
    if not data.index.samples:
        return "", ""
    resolution = _drawn_resolution(data)
    stills, solids = _chosen_stills(data, resolution), farthest(data)
    wishes: list[Wish] = [
        wish(data.root, number, data.index.samples[number], resolution, solid)
        for numbers, solid in ((solids, True), (stills, False))
        for number in numbers
    ]
    drawn = draw(wishes)
    sheet = _sheet(data, [(k, drawn[k, False]) for k in stills], resolution)
    return sheet, _worst(data, [(k, drawn[k, True]) for k in solids], resolution)


def farthest(data: DataFolder) -> list[int]:
    """The samples with the largest mean distance from source to result, worst first."""
    measured = [
        (-distance, number)
        for number, sample in enumerate(data.index.samples)
        if (distance := source_distance(sample, data.finest)) is not None
    ]
    return [number for _, number in sorted(measured)[:MOST_SOLIDS]]


def _drawn_resolution(data: DataFolder) -> int:
    coarse = [r for r in data.index.resolutions if r <= DRAWN_AT]
    return max(coarse, default=min(data.index.resolutions))


def _chosen_stills(data: DataFolder, resolution: int) -> list[int]:
    samples = data.index.samples
    numbers = spread(range(len(samples)), MOST_STILLS)
    voxels = sum(samples[k].grids[resolution].voxels for k in numbers)
    afford = max(1, MOST_VOXELS * len(numbers) // max(voxels, 1))
    return spread(numbers, min(len(numbers), afford))


def _sheet(data: DataFolder, stills: Sequence[tuple[int, Drawn]], resolution: int) -> str:
    total, shown = len(data.index.samples), len(stills)
    some = (
        f" {shown:,} of {total:,} samples are shown, evenly spread over the index; the other "
        f"{total - shown:,} count in all figures of this page."
        if shown < total
        else ""
    )
    others = "" if resolution == data.finest else f"; tokens and shares are those of {data.finest}³"
    cards = "".join(_card(data, number, drawn) for number, drawn in stills)
    keys = {key for number, _ in stills for key in _sort_values(data, number)}
    buttons = "".join(
        f'<button type="button" data-by="{key}" aria-pressed="{str(not key).lower()}">'
        f"{title}</button>"
        for key, title in SORTS
        if not key or key in keys
    )
    return (
        f'<p class="intro">Drawn from the stored {resolution}³ grids, as training will see '
        f"them{others}.{some}</p>"
        '<div class="toolbar" data-sorts="samples-sheet" hidden>Order <span class="segments" '
        f'role="group" aria-label="order">{buttons}</span></div>'
        f'<div class="samples" id="samples-sheet">{cards}</div>'
    )


def _sort_values(data: DataFolder, number: int) -> Mapping[str, float]:
    sample = data.index.samples[number]
    values = {
        "tokens": float(sample.grids[data.finest].tokens),
        "sheet": sheet_share(sample, data.finest),
        "far": source_distance(sample, data.finest),
    }
    return {key: value for key, value in values.items() if value is not None}


def _card(data: DataFolder, number: int, drawn: Drawn) -> str:
    sample = data.index.samples[number]
    name = escape(plain(sample.id))
    picture = (
        f'<img src="{drawn.still}" alt="{name}" loading="lazy">'
        if drawn.still
        else f'<div class="nothing">{escape(drawn.problem)}</div>'
    )
    facts = f"<span><b>{sample.grids[data.finest].tokens:,}</b> tokens</span>"
    share = sheet_share(sample, data.finest)
    if share:
        facts += f"<span><b>{_percent(share)}</b> sheet</span>"
    values = "".join(f' data-{k}="{v:.6g}"' for k, v in _sort_values(data, number).items())
    return (
        f'<article class="card sample"{values}><div class="view">{picture}</div>'
        f'<div class="about"><h3 title="{escape(plain(sample.source))}">{name}</h3>'
        f"{facts}{_flags(sample)}</div></article>"
    )


def _flags(sample: SampleEntry) -> str:
    return "".join(
        f"<i class=flag>{escape(plain(flag, 40).replace('_', ' '))}</i>"
        for flag in sample.flags[:6]
    )


def _worst(data: DataFolder, solids: Sequence[tuple[int, Drawn]], resolution: int) -> str:
    if not solids:
        return ""
    cards = "".join(_solid_card(data, number, drawn) for number, drawn in solids)
    return (
        f'<p class="intro">By the mean distance from the source to the stored surface, in voxels '
        f"of {data.finest}³; of the source, what can be seen from outside counts. Up to 0.1 is a "
        "faithful copy; about 0.9 is an open sheet that became a thin shell; with more, look "
        "whether you want the sample. Drag to turn, Ctrl + wheel or pinch to come closer, "
        "double-click to go back.</p>"
        '<p class="alert no-webgl" hidden>This browser offers no WebGL; still pictures are shown '
        f"instead.</p>{toolbar(LOOKS)}"
        f'<div class="solids">{cards}</div>'
        f'<p class="fine">Drawn from the {resolution}³ grids.</p>'
    )


def _solid_card(data: DataFolder, number_: int, drawn: Drawn) -> str:
    sample = data.index.samples[number_]
    measured = grid_figures(sample, data.finest)
    fidelity = measured.get("fidelity")
    distances = fidelity if isinstance(fidelity, Mapping) else {}
    name = escape(plain(sample.id))
    inner = f'<div class="nothing">{escape(drawn.problem)}</div>'
    if drawn.still:
        inner = f'<img src="{drawn.still}" alt="{name}">'
    facts = {
        "source to result": number(figure(distances, "mean_to_result"), 3),
        "result to source": number(figure(distances, "mean_to_source"), 3),
        "beyond 2 voxels": _percent(figure(distances, "share_beyond_2")),
        "sheet": _percent(sheet_share(sample, data.finest)),
        "thin, thickened": _percent(figure(measured, "thin_share")),
        "hidden, dropped": _percent(figure(measured, "interior_share")),
        "caps": number(figure(sample.info, "caps"), 0),
        "patches": number(figure(sample.info, "patches"), 0),
    }
    rows = "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in facts.items())
    data_script = json_script({"truth": drawn.mesh}) if drawn.mesh else ""
    return (
        '<article class="card"><div class="stage one"><figure class="view" data-role="truth">'
        f'{inner}</figure>{data_script}</div><div class="about">'
        f'<h3 title="{escape(plain(sample.source))}">{name}</h3><dl>{rows}</dl>{_flags(sample)}'
        "</div></article>"
    )


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.2g} %"
