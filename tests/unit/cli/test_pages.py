"""The pages of `explain --html` and `doctor --html`: what is on them, and what never is."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages_kit import ATTACKS, LONG, examined, explained, pages, report

from warpgate.cli.doctor import diagnose
from warpgate.cli.pages import examination, explanation
from warpgate.cli.pages.drawing import Box, Scene, Side, Way, draw
from warpgate.cli.pages.examination import private_names
from warpgate.cli.pages.markup import POLICY, joined, tag
from warpgate.cli.pages.masks import Masks, host_of
from warpgate.cli.pages.waterfall import Scale, clock
from warpgate.config import Config
from warpgate.events import PluginReport
from warpgate.model.text import printable


class Read(HTMLParser):
    """What a browser makes of a page: its elements, attributes and texts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.unclosed: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)
        self.attributes += attributes
        if name not in ("meta", "br"):
            self.unclosed.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.unclosed.pop() == name

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", list(pages()))
def test_a_page_is_whole_and_loads_nothing(name: str) -> None:
    page = pages()[name]
    read = Read(page)
    assert read.unclosed == []
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert ("content", POLICY) in read.attributes
    assert POLICY.startswith("default-src 'none'; style-src 'unsafe-inline'; ")  # no script, image or connection
    assert not {"script", "link", "img", "iframe", "object", "base", "a"} & set(read.tags)
    assert not {"src", "href", "xlink:href", "srcset", "data"} & {key for key, _ in read.attributes}
    assert not any(key.startswith("on") for key, _ in read.attributes)
    assert not re.search(r"url\(|@import|https?://", page)
    page.encode("utf-8")


@pytest.mark.parametrize("attack", [*ATTACKS, LONG])
def test_what_others_chose_is_text(attack: str) -> None:
    """The same elements and attributes as with a harmless text, and the text itself is to be read."""
    for name, page in pages(attack).items():
        harmless = Read(pages("some text of a peer")[name])
        hostile = Read(page)
        assert hostile.tags == harmless.tags
        assert [key for key, _ in hostile.attributes] == [key for key, _ in harmless.attributes]
        if name != "masked":
            assert printable(attack, None) in hostile.text
        assert all(letter.isprintable() or letter == "\n" for letter in page)


def test_markup_is_only_what_was_made_as_such() -> None:
    assert tag("p", "<b>", tag("br"), class_='"', aria_label=None) == '<p class="&quot;">&lt;b&gt;<br></p>'
    assert joined("&", tag("b", "x")) == "&amp;<b>x</b>"
    assert tag("line", x1=1.5, x2=2.0) == '<line x1="1.5" x2="2"></line>'


def test_both_nats_and_every_strategy_are_told() -> None:
    page = Read(explanation.page(explained("some text"))).text
    for words in (
        "port-restricted NAT",
        "symmetric NAT",
        "ports: random",
        "udp_punch",
        "won",
        "lost",
        "crashed",
    ):
        assert words in page
    for row in report("some text"):
        assert row.plugin in page
        assert all(text in page for _, text in row.notes)
    assert "198.51.100.2:5151" in page


@pytest.mark.parametrize(
    ("way", "drawn"),
    [
        (Way("by"), {"way": 3}),
        (Way("by", relay=Box("server", "relay")), {"way": 4}),
        (Way("by", inside=True), {"way": 1}),
        (Way("no way", broken=True), {"gap": 1, "cross": 1}),
    ],
)
def test_the_way_is_drawn_where_it_goes(way: Way, drawn: dict[str, int]) -> None:
    """Between each two neighbours; over the relay; past the routers; or not at all."""
    side = Side(Box("host", "h"), Box("nat", "n"))
    picture = draw(Scene(side, Box("server", "s"), "told", side, way))
    assert {css: picture.count(f'class="{css}"') / 2 for css in drawn} == drawn
    assert picture.count("<svg class=") == 2


def test_what_is_drawn_stays_in_the_picture() -> None:
    side = Side(Box("host", LONG, (LONG,), (LONG,)), Box("nat", LONG, (LONG,) * 4))
    relayed, inside = Way(LONG, relay=Box("server", LONG, where=(LONG,))), Way(LONG, inside=True)
    for far, way in ((side, relayed), (side, inside), (None, None)):
        pictures = draw(Scene(side, Box("server", LONG, (LONG,)), "told", far, way)).split("<svg class=")
        assert len(pictures) == 3
        for picture in pictures[1:]:
            width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', picture)[0])
            for x, y, across, down in re.findall(
                r'<svg x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', picture
            ):
                assert 0 <= float(x) < float(x) + float(across) <= width
                assert 0 <= float(y) < float(y) + float(down) <= height


@given(st.lists(st.floats(-5, 300), min_size=1), st.floats(0, 300))
def test_later_is_further_right(times: list[float], last: float) -> None:
    scale = Scale.of([PluginReport("p", "lost", "", None, None, tuple((at, "") for at in times))], last)
    places = [scale.place(at) for at in sorted(times)]
    assert places == sorted(places)
    assert all(0 <= place <= 1000 for place in (*places, scale.place(last)))
    assert 1 <= len(scale.marks) <= 7
    assert all(scale.first <= mark <= scale.last for mark in scale.marks)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "0 ms"), (0.0604, "60.4 ms"), (0.25, "250 ms"), (1.58, "1.58 s"), (-0.031, "-31 ms")],
)
def test_clocks(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


KEPT = (ip_address("64:ff9b::"), *map(ip_address, (f"192.0.0.{n}" for n in range(8))))


# -- masks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "UDP 10.0.0.2:4242 is 203.0.113.9:5151 from outside",
            "UDP private-1:4242 is public-1:5151 from outside",
        ),
        ("eth0: 10.0.0.2/24, 10.0.0.3, 10.0.0.2.", "eth0: private-1/24, private-2, private-1."),
        ("[2001:db8::1]:443, 2001:DB8:0::1/64: fd00::7", "[public6-1]:443, public6-1/64: private6-1"),
        ("fe80::1%eth0 - ::1, 127.0.0.1, ::", "link6-1%eth0 - ::1, 127.0.0.1, ::"),
        ("prefix 64:ff9b::/96, 2001:db8:64::/96", "prefix 64:ff9b::/96, public6-1/96"),
        ("::ffff:203.0.113.9 is 203.0.113.9", "other6-1 is public-1"),
        ("node 2lbgtqdcwyvmrkmmdx3bqadjgm runs", "node node-1 runs"),
        ("wg1AbCdEfGhIjKlMnOpQrStUvWx-_ it is", "address-1 it is"),
        ("turn:relay.acme.example:3478?transport=tcp: no", "turn:host-1:3478?transport=tcp: no"),
        ("https://NAMES.acme.example/v1?key=s3cret, no", "https://host-1/..., no"),
        ("wss://names.acme.example:8443/secret and names.acme.example.org", None),
        ("resolve 'relay.acme.example': no", "resolve 'host-1': no"),
        (
            "00:1b:44:11:3a:b7 at 12:30:45 with 0.1.0 or 1.2.3.4.5",
            "mac-1 at 12:30:45 with 0.1.0 or 1.2.3.4.5",
        ),
        ("mqtt://broker.emqx.io:1883", "mqtt://broker.emqx.io:1883"),
        (f"cannot read {Path.home()}/.local/share/warpgate", "cannot read ~/.local/share/warpgate"),
    ],
)
def test_masks(text: str, shown: str | None) -> None:
    mask = Masks(["turn:me:pass@relay.acme.example:3478", "https://names.acme.example/v1?key=s3cret"])
    masked = mask(text)
    assert masked == (shown or "wss://host-1:8443/... and names.acme.example.org")
    assert mask(text) == masked


@given(st.lists(st.ip_addresses(), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_no_address_is_left_and_equal_ones_stay_equal(found: list, rng) -> None:
    mask = Masks(())
    given: dict[object, str] = {}
    for ip in (*found, *found):
        written = rng.choice([str(ip), ip.exploded, str(ip).upper()])
        text = mask(f"from [{written}]:4242 ({written}), {written}/24.")
        if not ip.is_loopback and not ip.is_unspecified and not ip.is_multicast and ip not in KEPT:
            assert written not in text
            assert given.setdefault(ip, text) == text
    assert len(set(given.values())) == len(given)


@pytest.mark.parametrize(
    ("server", "host"),
    [
        ("turn:user:p@ss@relay.example:3478?transport=tcp", "relay.example"),
        ("turn-secret:se/cret@relay.example", "relay.example"),
        ("stun.example:3478", "stun.example"),
        ("stun:stun.example", "stun.example"),
        ("mqtts://u:p@h.example:8883", "h.example"),
        ("https://h.example/path?key=1", "h.example"),
        ("[2001:db8::1]:3478", ""),
        ("alice", "alice"),
    ],
)
def test_hosts_of_servers(server: str, host: str) -> None:
    assert host_of(server) == host


def test_the_page_of_doctor_has_all_its_findings_and_no_address() -> None:
    from test_doctor import EIM, attached, checked, status  # noqa: PLC0415 - its machines

    snapshot = status(attached(EIM))
    findings = diagnose(snapshot, "2lbgtqdcwyvmrkmmdx3bqadjgm", 4242, (), Config(), checked(snapshot))
    told = examination.Examination(0.0, findings, examined("").address)
    masked = Read(examination.page(told, Masks(["mqtt://broker.example:1883"]))).text
    full = Read(examination.page(told, None)).text
    for finding in findings:
        assert finding.message in full or finding.section == "in short"
        assert finding.section in masked or finding.section == "in short"
    for private in ("10.0.0.2", "192.168.1.2", "203.0.113.9", "198.51.100.1", "2lbgtqdcwy", "broker.example"):
        assert private not in masked
        assert private in full
    assert "private-1" in masked


def test_only_what_the_settings_name_is_private() -> None:
    public = Config(
        brokers=("mqtt://broker.emqx.io:1883",), turn=("turn:u:p@mine.example",), names=("https://n.example",)
    )
    assert private_names(public) == ["turn:u:p@mine.example", "https://n.example"]
