"""The page of prepared data in a real browser: drawn, turned, sorted, read, at any width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.browser import PROGRAM, Browser
from tests.report.conftest import EVIL
from tests.report.data_sets import figures, make_data, write_ledger, write_rejects
from threed_gen.data.index import ShardIndex
from threed_gen.report.data_page import write_data_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine"),
]

STATE = "document.documentElement.dataset.viewer"
ORDER = "[...document.querySelectorAll('.sample h3')].map((h) => h.textContent)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "set"
    samples = make_data(out, ("box", "torus", "box"), flags=("skinned",))
    for k, distance in enumerate((0.1, 0.3, 0.2)):
        samples[k] = replace(samples[k], info=figures(distance, 0.5))
    samples[2] = replace(samples[2], id=EVIL)
    replace(ShardIndex.load(out), samples=samples).save(out)
    write_rejects(out, {"no_faces": 20, EVIL + "x" * 120: 2})
    write_ledger(out, 0, {str(k): (1.0 + k, 100.0 + k) for k in range(20)})
    return write_data_report(out)


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile"), size=(1100, 3000)) as found:
        found.open(page)
        yield found


def test_all_is_drawn_without_a_complaint_or_a_request(browser: Browser, page: Path) -> None:
    browser.wait_for(f"{STATE} === 'ready 3'")
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    assert browser.evaluate("document.title") == "set · threed-gen"
    loaded = "[...document.images].every((i) => i.complete && i.naturalWidth === i.naturalHeight)"
    assert browser.evaluate(f"document.images.length === 6 && {loaded}")


def test_a_solid_turns(browser: Browser) -> None:
    browser.wait_for(f"{STATE} === 'ready 3'")
    total = """(() => { const view = document.querySelector(".stage canvas");
      return view.getContext("2d").getImageData(0, 0, view.width, view.height).data
        .reduce((a, b) => a + b, 0); })()"""
    before = browser.evaluate(total)
    browser.evaluate("document.querySelector('[data-spin]').click()")
    browser.wait_for(f"{total} !== {before}")
    browser.evaluate("document.querySelector('[data-spin]').click()")


@pytest.mark.parametrize(
    ("by", "order"),
    [
        ("far", ["torus_1", EVIL, "box_0"]),
        ("tokens", ["box_0", EVIL, "torus_1"]),
        ("", ["box_0", "torus_1", EVIL]),
    ],
)
def test_samples_are_put_in_order(browser: Browser, by: str, order: list[str]) -> None:
    browser.evaluate(f"document.querySelector('[data-by=\"{by}\"]').click()")
    assert browser.evaluate(ORDER) == order
    pressed = "document.querySelector('[data-by][aria-pressed=true]').dataset.by"
    assert browser.evaluate(pressed) == by


def test_bars_read_out_under_the_pointer(browser: Browser) -> None:
    found = browser.evaluate("""(() => {
      const card = [...document.querySelectorAll(".chart-card")]
        .find((c) => c.textContent.includes("seconds per mesh"));
      card.scrollIntoView({ block: "center", behavior: "instant" });
      const bar = card.querySelector(".bar").getBoundingClientRect();
      card.querySelector("svg").dispatchEvent(new PointerEvent("pointermove",
        { clientX: bar.left + bar.width / 2, clientY: bar.top + 1 }));
      return [...card.querySelectorAll(".tip div")].map((line) => line.textContent); })()""")
    assert found == ["1 – 1.45", "1 mesh"]


@pytest.mark.parametrize("width", [360, 700, 1600])
def test_nothing_sticks_out_sideways(browser: Browser, width: int) -> None:
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=900,
        deviceScaleFactor=1,
        mobile=False,
    )
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    cut = "[...document.querySelectorAll('.card')].filter((c) => c.scrollWidth > c.clientWidth)"
    assert browser.evaluate(f"{cut}.map((card) => card.textContent.slice(0, 60))") == []
