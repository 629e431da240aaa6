"""`explain --html` and `doctor --html` of the real program behind a NAT: what is on the pages is what is there."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from programs import Seat, events, seats

from warpgate.lab.topology import Lab
from warpgate.model.address import NodeAddress
from warpgate.model.nat import Filtering

pytestmark = pytest.mark.lab


async def settled_address(seat: Seat) -> str:
    """Of the program that runs there, once it knows its NAT: what is drawn of a peer is what its address says."""
    async with asyncio.timeout(30):
        while True:
            (told,) = events((await seat.run("warpgate", "status", "--json")).stdout)
            attachments = NodeAddress.from_text(told["address"]).attachments
            if all(at.nat.filtering is not Filtering.UNKNOWN for at in attachments):
                return str(told["address"])


async def test_both_nats_are_drawn_and_the_doctors_page_names_no_address(lab: Lab, tmp_path: Path) -> None:
    a, b = await seats(lab, tmp_path)
    async with b.running("warpgate", "listen", "--echo", "--json", says=b'"ready"'):
        address = await settled_address(b)
        explained, examined = await asyncio.gather(
            a.run("warpgate", "explain", address, "--html", tmp_path / "explain.html"),
            a.run("warpgate", "doctor", "--html", tmp_path / "doctor.html"),
        )
    assert (explained.returncode, examined.returncode) == (0, 0), (explained, examined)
    page = (tmp_path / "explain.html").read_text("utf-8")
    outside = [str(host.routers[0].nat.external[0]) for host in (a.host, b.host)]  # type: ignore[union-attr]
    assert page.count(">port-restricted NAT<") == 4  # two NATs in each of the two pictures
    assert "punch, " in page
    assert all(where in page for where in (*outside, str(a.host.ipv4), str(b.host.ipv4)))
    doctor = (tmp_path / "doctor.html").read_text("utf-8")
    assert doctor.count(">port-restricted NAT<") == 2
    node_id = explained.stdout.decode().split("with ")[1].split()[0]
    assert node_id in page
    own = (await a.run("warpgate", "id", "--json")).stdout
    private = (outside[0], str(a.host.ipv4), json.loads(own)["node_id"], a.env["WARPGATE_STUN"].split(":")[0])
    assert [text for text in private if text in doctor] == []
    assert all(text in examined.stdout.decode() for text in private)
    assert "private-1:" in doctor
    assert "public-1:" in doctor
