"""Looking at a page as text: what a browser would show, and that it would fetch nothing."""

from __future__ import annotations

import html.parser
import re


class Page(html.parser.HTMLParser):
    """Counts what a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def with_class(self, name: str) -> list[dict[str, str | None]]:
        """The attributes of every element of a class."""
        return [a for _, a in self.tags if name in (a.get("class") or "").split()]


def check_offline(page: str) -> None:
    """Fail when anything in the page would be fetched from elsewhere."""
    code = re.sub(r"/\*!.*?\*/", "", page, flags=re.DOTALL)  # licence comments name web pages
    links = set(re.findall(r"""https?://[^\s"'`<>)]+""", code))
    assert links <= {"http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"}
    for tag, attributes in Page(page).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "srcset" not in attributes
        if "src" in attributes:
            assert (attributes["src"] or "").startswith("data:image/")
    assert "default-src 'none'" in page
    for word in ("@import", "XMLHttpRequest(", "WebSocket(", "url(http", "importScripts"):
        assert word not in page.replace("XMLHttpRequest().", "")
