"""Pages in a real browser: what a phone and a desk show, in light and in dark, and what attacks come to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_kit import Browser, browser, installed
from need_kit import need_programs
from pages_kit import ATTACKS, LONG, pages

PHONE, DESK = 390, 1280
# WCAG 2.2, 1.4.3: the least for text that is not large.
CONTRAST = 4.5

# The lowest contrast of a text with what is behind it: of the page, and of the picture with the box it is in.
LOWEST_CONTRAST = """(() => {
  const light = colour => {
    const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [r, g, b] = colour.match(/[\\d.]+/g).map(v => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ratio = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + .05) / (low + .05);
  };
  const ground = element => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    const style = getComputedStyle(element);
    if (!element.getClientRects().length || element.tagName === 'title') continue;
    if (element.tagName !== 'text') found.push(ratio(style.color, ground(element)));
    else {
      const box = element.parentElement.querySelector(':scope > rect');
      found.push(ratio(style.fill, box ? getComputedStyle(box).fill : ground(element)));
    }
  }
  return Math.min(...found);
})()"""

# Texts of the picture that leave the box they are in, or the picture.
ESCAPED = """[...document.querySelectorAll('svg text')].filter(text => {
  if (!text.getClientRects().length) return false;
  const own = text.getBoundingClientRect();
  const box = text.parentElement.querySelector(':scope > rect') || text.parentElement;
  const room = box.getBoundingClientRect();
  return own.left < room.left || own.right > room.right || own.top < room.top || own.bottom > room.bottom;
}).map(text => text.textContent)"""

SMALLEST_LETTERS = """Math.min(...[...document.querySelectorAll('svg text')]
  .filter(text => text.getClientRects().length)
  .map(text => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a))"""


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if installed() is None:
        need_programs("chromium")
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def shown(window: Browser, tmp_path: Path):
    def show(page: str, width: int, *, dark: bool = False) -> Browser:
        (tmp_path / "page.html").write_text(page, "utf-8")
        return window.show(tmp_path / "page.html", width, dark=dark)

    return show


@pytest.mark.parametrize("name", ["won", "failed", "lan", "relayed", "v6", "watched", "masked", "servers"])
def test_phone_and_desk_in_light_and_dark(shown, name: str) -> None:
    page, grounds = pages()[name], set()
    for width in (PHONE, DESK):
        for dark in (False, True):
            window = shown(page, width, dark=dark)
            assert window.evaluate("document.documentElement.scrollWidth") == width
            assert window.evaluate(LOWEST_CONTRAST) >= CONTRAST
            grounds.add(window.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert window.evaluate(ESCAPED) == []
        visible = "[...document.querySelectorAll('.wide, .tall')].filter(s => s.getClientRects().length).length"
        assert window.evaluate(visible) == (0 if name == "servers" else 1)
        if name != "servers":
            assert window.evaluate(SMALLEST_LETTERS) >= 10.5
    assert len(grounds) == 2
    assert len(window.requests) == 1
    assert window.picture().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["".join(ATTACKS), LONG, "\u6f22\u5b57" * 60])
def test_attacks_come_to_nothing(shown, text: str) -> None:
    """Nothing runs, nothing is loaded, nothing is made of it but text, and no page grows wider."""
    harmless = pages("x")
    for name in ("won", "watched", "masked"):
        elements = "document.querySelectorAll('*').length"
        wanted = shown(harmless[name], PHONE).evaluate(elements)
        window = shown(pages(text)[name], PHONE)
        assert window.evaluate(elements) == wanted
        assert window.evaluate("'attacked' in window") is False
        assert window.evaluate("document.documentElement.scrollWidth") == PHONE
        assert len(window.requests) == 1
        assert not [each for each in window.told if each.get("method") == "Log.entryAdded"]


def test_the_policy_stops_what_an_escape_would_have_missed(shown) -> None:
    """A page with a script put in behind our back."""
    page = pages()["won"].replace("<main>", "<main><script>window.attacked=1</script><img src='https://198.51.100.9/'>")
    window = shown(page, DESK)
    assert window.evaluate("'attacked' in window") is False
    told = [each["params"]["entry"]["text"] for each in window.told if each.get("method") == "Log.entryAdded"]
    assert any("Content Security Policy" in text for text in told), told
