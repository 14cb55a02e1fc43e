"""The page in a real browser: meshes are drawn and turn, nothing is fetched, no error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report.browser import PROGRAM, Browser
from tests.report.test_step_meshes import run_with_samples
from threed_gen.report.page import write_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine"),
]

STATE = "document.documentElement.dataset.viewer"
# Sums over the pixels of both views of the first pair, after all pending drawing.
SUMS = """new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(
  [...document.querySelectorAll(".stage canvas")].slice(0, 2).map((view) => view.getContext("2d")
    .getImageData(0, 0, view.width, view.height).data.reduce((a, b) => a + b, 0))))))"""

# For each view that is drawn: pixels where the body is (not the faint shadow on the floor) in the
# still picture and in the live one, in both, and in either.
SILHOUETTES = """[...document.querySelectorAll(".view")].filter((v) => v.querySelector("canvas"))
  .map((view) => { const [still, live] = ["img", "canvas"].map((name) => {
      const small = document.createElement("canvas"); small.width = small.height = 128;
      const pen = small.getContext("2d"); pen.drawImage(view.querySelector(name), 0, 0, 128, 128);
      return pen.getImageData(0, 0, 128, 128).data.filter((_, i) => i % 4 === 3); });
    let both = 0, either = 0;
    still.forEach((alpha, i) => { both += alpha > 235 && live[i] > 235;
      either += alpha > 235 || live[i] > 235; });
    return [both, either]; })"""


@pytest.fixture(scope="module")
def page(run_dir: Path) -> Path:
    return write_report(run_dir)


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        found.open(page)
        yield found


def place(browser: Browser, selector: str) -> tuple[float, float, float, float]:
    """Left, top, width, height of an element in the window, scrolled into view."""
    box = browser.evaluate(
        f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView("
        "{ block: 'center', behavior: 'instant' }); const b = e.getBoundingClientRect();"
        " return [b.left, b.top, b.width, b.height]; })()"
    )
    left, top, width, height = box
    return left, top, width, height


def test_every_pair_is_drawn_without_a_complaint(browser: Browser, tmp_path: Path) -> None:
    browser.wait_for(f"{STATE} === 'ready 3'")
    browser.evaluate(SUMS)
    assert browser.complaints == []
    browser.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    red_over_blue = pixels[..., 0] - pixels[..., 2]
    bright = pixels.min(axis=2) > 60
    assert ((red_over_blue > 15) & bright).sum() > 10_000  # clay
    assert ((red_over_blue < -30) & bright).sum() > 10_000  # slate


def test_live_meshes_have_the_outlines_of_the_still_pictures(browser: Browser) -> None:
    """Two renderers, one camera: a mesh unpacked wrongly, or another view, would not fit."""
    browser.wait_for(f"{STATE} === 'ready 3'")
    browser.evaluate(SUMS)
    shares = browser.evaluate(SILHOUETTES)
    assert len(shares) == 5  # three truths, two reconstructions: one is empty
    for both, either in shares:
        assert either > 1000
        assert both / either > 0.97


def test_names_from_files_did_not_run(browser: Browser) -> None:
    assert browser.evaluate("document.title") == "first · threed-gen"


def test_only_the_page_itself_was_asked_for(browser: Browser, page: Path) -> None:
    browser.wait_for(f"{STATE} === 'ready 3'")
    fetched = [url for url in browser.requests if not url.startswith("data:")]
    assert fetched == [page.as_uri()]


def test_a_drag_turns_both_views_alike(browser: Browser) -> None:
    browser.wait_for(f"{STATE} === 'ready 3'")
    before = browser.evaluate(SUMS)
    left, top, width, height = place(browser, ".stage")
    x, y = left + width / 4, top + height / 2
    browser.mouse("mousePressed", x, y, button="left", clickCount=1)
    for k in range(1, 6):
        browser.mouse("mouseMoved", x + 20 * k, y, button="left", buttons=1)
    browser.mouse("mouseReleased", x + 100, y, button="left")
    after = browser.evaluate(SUMS)
    assert all(a != b for a, b in zip(after, before, strict=True))
    browser.evaluate("document.querySelector('[data-home]').click()")
    assert browser.evaluate(SUMS) == before


@pytest.mark.parametrize("look", ["edges", "normals", "error"])
def test_each_material_draws_something_else(browser: Browser, look: str) -> None:
    browser.wait_for(f"{STATE} === 'ready 3'")
    before = browser.evaluate(SUMS)
    browser.evaluate(f"document.querySelector('[data-look={look}]').click()")
    assert all(a != b for a, b in zip(browser.evaluate(SUMS), before, strict=True))
    browser.evaluate("document.querySelector('[data-look=clay]').click()")
    assert browser.evaluate(SUMS) == before


def test_slider_shows_the_preview_of_its_step(browser: Browser) -> None:
    script = """(() => { const slider = document.querySelector(".scrub input");
      slider.value = 0; slider.dispatchEvent(new Event("input"));
      return [document.querySelector(".scrub output").textContent,
        ...[...document.querySelectorAll(".scrub img")].map((i) => i.hidden)]; })()"""
    assert browser.evaluate(script) == ["step 30", False, True]


def test_read_out_under_the_pointer(browser: Browser) -> None:
    left, top, width, height = place(browser, ".chart-card svg")
    browser.mouse("mouseMoved", left + 0.97 * width, top + height / 2)
    step, value = browser.evaluate(
        "[...document.querySelector('.tip').children].map((row) => row.textContent)"
    )
    number = int(step.removeprefix("step "))
    assert 55 <= number <= 60
    assert float(value) == pytest.approx(np.exp(-number / 20), rel=0.05)
    box = place(browser, ".tip")
    assert top - 5 < box[1] < top + height
    assert left < box[0] + box[2] < left + width


def test_nothing_sticks_out_on_a_phone(page: Path, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile", size=(360, 800)) as phone:
        phone.open(page)
        phone.wait_for(f"({STATE} || '').startsWith('ready')")
        wide = "document.documentElement.scrollWidth > window.innerWidth"
        assert phone.evaluate(wide) is False
        assert phone.complaints == []


def test_without_webgl_still_pictures_remain(page: Path, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile", "--disable-3d-apis") as plain:
        plain.open(page)
        plain.wait_for(f"{STATE} === 'no-webgl'")
        assert plain.evaluate("document.querySelectorAll('.stage.live').length") == 0
        assert plain.evaluate("document.querySelector('.no-webgl').hidden") is False
        loaded = "[...document.querySelectorAll('.view img')].every((i) => i.naturalWidth > 100)"
        assert plain.wait_for(loaded)


def test_the_slider_goes_through_the_training(browser: Browser, tmp_path: Path) -> None:
    """The last one here: it takes the browser to another page."""
    browser.complaints.clear()
    page = write_report(run_with_samples(tmp_path / "run"))
    browser.open(page)
    browser.wait_for(f"{STATE} === 'ready 1'")
    late = browser.evaluate(SUMS)
    assert late[1] > late[0] > 0  # the sample is the larger ball
    step = """(() => { const slider = document.querySelector(".steps input");
      slider.value = VALUE; slider.dispatchEvent(new Event("input"));
      return document.querySelector(".steps output").textContent; })()"""
    assert browser.evaluate(step.replace("VALUE", "0")) == "step 10"
    early = browser.evaluate(SUMS)
    assert early == [late[0], 0]  # the truth stays; there was no surface yet
    assert browser.evaluate("document.querySelectorAll('.view.bare').length") == 1
    assert browser.evaluate(step.replace("VALUE", "1")) == "step 20"
    assert browser.evaluate(SUMS) == late
    browser.screenshot(tmp_path / "steps.png")
    assert browser.complaints == []
