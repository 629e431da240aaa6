"""Newer lists of public servers: https servers on loopback that are well, tired or hostile; weeks in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import random
import ssl
import subprocess
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

from warpgate.config import Config
from warpgate.core import server_lists
from warpgate.core.disk.list_store import LARGEST_FILE, list_store
from warpgate.core.server_lists import FIRST_HIGH, LOOK_AGAIN, RETRY, SPREAD, WEEK, ServerLists, StoredList
from warpgate.core.servers_in_use import ServersInUse
from warpgate.errors import NetworkError, ServiceError, WarpgateError
from warpgate.events import Event, ServerFailed, ServerListFetched
from warpgate.model.endpoint import Endpoint
from warpgate.model.identity import Identity
from warpgate.model.server_list import (
    LARGEST_LIST,
    ServerList,
    open_list,
    parse_list,
    signed,
    without_signatures,
)
from warpgate.net.system import SystemNetwork
from warpgate.net.tls import Trust
from warpgate.services import list_places
from warpgate.services.defaults import ListKeys, list_keys, public_servers
from warpgate.services.list_places import fetch_list
from warpgate.services.proxy import Proxies
from warpgate_testing.clock import run_virtual

ROOT = Path(__file__).parents[3]
KEY, STRANGER = Identity.generate(), Identity.generate()
NOW = 1_800_000_000.0  # 2027-01-15
PLACE = "https://lists.example.com/servers.toml"
NO_PROXY = Proxies(lambda scheme, host: None)
OURS = public_servers().sequence
NEW_BROKER, NEW_STUN = "wss://new.example.com:443/mqtt", "stun.example.com:3478?transport=udp"


def listed(sequence: int = OURS + 1, expires: str = "2027-12-31", *keys: Identity, extra: str = "") -> bytes:
    text = (
        f'sequence = {sequence}\nexpires = {expires}\nbrokers = ["wss://u:p@new.example.com:443/mqtt"]\n'
        f'stun = ["stun.example.com:3478?transport=udp"]\n{extra}'
    )
    return signed(text.encode(), *(keys or (KEY,)))


class Machine:
    """One user's data directory, a clock, and the lists that places have: texts, or what is raised."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = list_store(folder / "server-list.json")
        self.now = NOW
        self.places: dict[str, bytes | WarpgateError] = {}
        self.asked: list[tuple[str, float]] = []
        self.events: list[Event] = []
        self.started: float | None = None
        self.taken: list[int] = []
        monkeypatch.setattr(server_lists, "fetch_list", self._fetch)

    async def _fetch(self, network: object, place: str, trust: object) -> bytes:
        self.asked.append((place, self.clock() - NOW))
        there = self.places[place]
        if isinstance(there, WarpgateError):
            raise there
        return there

    def clock(self) -> float:
        """The wall's; it goes on with the loop's once a story has begun."""
        if self.started is None:
            return self.now
        return self.now + asyncio.get_running_loop().time() - self.started

    def lists(self, config: Config | None = None, keys: tuple[Identity, ...] = (KEY,)) -> ServerLists:
        known = ListKeys(tuple(key.public_key for key in keys), tuple(self.places))
        return ServerLists(config or Config(), self.store, self.clock, lambda: known)

    def servers(self, config: Config | None = None, keys: tuple[Identity, ...] = (KEY,)) -> ServersInUse:
        """As a node that starts now has them."""
        return ServersInUse(config or Config(), self.lists(config, keys).newest())

    def run(self, seconds: float, config: Config | None = None, keys: tuple[Identity, ...] = (KEY,)) -> None:
        """A node of the user's runs for so long."""
        lists = self.lists(config, keys)
        servers = ServersInUse(config or Config(), lists.newest())

        def take(listed: ServerList) -> None:
            if servers.take(listed):
                self.taken.append(servers.listed.sequence)

        async def story() -> None:
            self.started = asyncio.get_running_loop().time()
            running = lists.run(SystemNetwork(), self.events.append, random.Random(len(self.asked)), take)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await running
            self.now = self.clock()
            self.started = None

        run_virtual(story(), limit=1e9)

    @property
    def failures(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, ServerFailed)]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_newer_list_counts_at_once_and_for_those_that_start_later(machine: Machine) -> None:
    machine.places = {PLACE: listed()}
    assert machine.servers().listed is public_servers()
    machine.run(FIRST_HIGH)
    assert machine.events == [ServerListFetched(PLACE, OURS + 1)]
    assert machine.taken == [OURS + 1]
    servers = machine.servers()
    assert servers.brokers == (NEW_BROKER,)
    assert servers.login(NEW_BROKER) == ("u", "p")
    assert servers.stun == (NEW_STUN,)
    assert machine.lists().status().fetched


def test_a_list_that_another_process_fetched_is_taken_over_too(machine: Machine) -> None:
    machine.places = {PLACE: ServiceError("it answers 500")}
    machine.run(FIRST_HIGH)
    machine.now += 86400
    machine.store.save(replace(machine.store.load(), data=listed(OURS + 3)))
    machine.run(FIRST_HIGH)
    assert machine.taken == [], "what is there at the start is used from the start"

    def fetched_elsewhere() -> float:
        if machine.started is not None and machine.store.load().data != listed_later:
            machine.store.save(replace(machine.store.load(), data=listed_later))
        return clock()

    listed_later, clock = listed(OURS + 4), machine.clock
    machine.clock = fetched_elsewhere  # type: ignore[method-assign]
    machine.run(LOOK_AGAIN + FIRST_HIGH)
    assert len(machine.asked) == 1
    assert machine.taken == [OURS + 4]


def test_a_running_node_takes_no_older_list_wherever_it_is_from(machine: Machine) -> None:
    """Its file is replaced by an older one, and gone; a place repeats itself."""
    machine.places = {PLACE: listed(OURS + 5)}
    machine.run(FIRST_HIGH)
    lists, servers = machine.lists(), machine.servers()
    assert lists.newest() == servers.listed
    for older in (listed(OURS + 4), b"", listed(OURS + 5)):
        machine.store.save(StoredList(older))
        newest = lists.newest()
        assert newest is not None
        assert newest.sequence == OURS + 5
        assert not servers.take(newest)
        assert servers.listed.sequence == OURS + 5
    assert not servers.take(public_servers())
    assert servers.brokers == (NEW_BROKER,)


def test_a_list_that_ends_while_it_is_used_goes_on_until_the_next(machine: Machine) -> None:
    machine.places = {PLACE: listed(OURS + 1, "2027-02-20"), PLACE + "2": listed(OURS + 1, "2027-02-20")}
    machine.run(20 * WEEK)
    assert machine.taken == [OURS + 1]
    assert machine.lists().status().used is public_servers()
    machine.places[PLACE] = listed(OURS + 2)
    machine.run(3 * WEEK)
    assert machine.taken == [OURS + 1, OURS + 2]


def test_names_that_a_later_list_has_left_keep_their_meaning_while_the_node_runs(machine: Machine) -> None:
    """A live home is kept, and dialled anew after a break: with its log-in, its address remembered, and guarded."""
    machine.store.save(StoredList(listed()))
    servers = machine.servers()
    body, _ = without_signatures(listed(OURS + 2))
    other = body.replace(b"wss://u:p@new.example.com:443/mqtt", b"mqtts://other.example.com")
    assert servers.take(parse_list(other))
    assert servers.brokers == ("mqtts://other.example.com:8883",)
    assert servers.login(NEW_BROKER) == ("u", "p")
    assert {NEW_BROKER, NEW_STUN, "mqtts://other.example.com:8883"} <= servers.known

    async def inside(host: str, port: int) -> tuple[Endpoint, ...]:
        return (Endpoint(ip_address("10.0.0.1"), port),)

    for host in ("new.example.com", "other.example.com"):
        with pytest.raises(NetworkError, match="not asked"):
            run_virtual(servers.guarded(inside)(host, 1))


def test_what_the_settings_name_is_not_touched(machine: Machine) -> None:
    machine.store.save(StoredList(listed()))
    own = Config(brokers=("mqtt://mine.example",))
    servers = machine.servers(own)
    assert (servers.brokers, servers.stun) == (("mqtt://mine.example:1883",), (NEW_STUN,))
    assert servers.login(NEW_BROKER) is None
    all_own = replace(own, stun=())
    assert machine.servers(all_own).stun == ()
    machine.places = {PLACE: listed(OURS + 2)}
    machine.run(30 * WEEK, all_own)
    assert machine.taken == []
    assert not machine.servers(all_own).take(open_list(listed(OURS + 2), (KEY.public_key,)))


def test_one_switch_leaves_all_as_it_was(machine: Machine) -> None:
    machine.places = {PLACE: listed()}
    machine.store.save(StoredList(listed()))
    off = Config(server_lists=())
    assert machine.servers(off).listed is public_servers()
    machine.run(30 * WEEK, off)
    assert (machine.asked, machine.taken) == ([], [])


@pytest.mark.parametrize("places", [{}, {PLACE: listed()}])
def test_without_a_key_in_the_package_nothing_is_fetched(machine: Machine, places: dict[str, Any]) -> None:
    machine.places = places
    machine.store.save(StoredList(listed()))
    machine.run(30 * WEEK, keys=())
    assert machine.asked == []
    assert machine.servers(keys=()).listed is public_servers()
    assert machine.lists(keys=()).status().off == "this package has no key to verify one with"


def test_this_package_has_no_key() -> None:
    assert list_keys() == ListKeys((), ())


def test_a_program_with_an_identity_of_its_own_asks_nobody(machine: Machine) -> None:
    known = ListKeys((KEY.public_key,), (PLACE,))
    lists = ServerLists(Config(), None, machine.clock, lambda: known)
    taken = list[ServerList]()
    run_virtual(lists.run(SystemNetwork(), machine.events.append, random.Random(1), taken.append), limit=1e9)
    assert machine.asked == []
    assert (lists.newest(), taken) == (None, [])


def test_a_program_that_is_over_soon_asks_nobody(machine: Machine) -> None:
    machine.places = {PLACE: listed()}
    machine.run(120)
    assert machine.asked == []


def test_places_are_asked_weekly_at_most_whatever_they_say(machine: Machine) -> None:
    """A node that runs for half a year, and one that is started anew each hour."""
    machine.places = {PLACE: ServiceError("it answers 500")}
    machine.run(26 * WEEK)
    for _ in range(24 * 21):
        machine.run(3600)
    times = [at for _, at in machine.asked]
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert 14 <= len(times) <= 30
    assert all(WEEK <= gap <= WEEK + SPREAD + 2 * 6 * 3600 for gap in gaps)


def test_also_where_nothing_can_be_kept(machine: Machine) -> None:
    machine.store.save = lambda stored: None  # type: ignore[method-assign]
    machine.places = {PLACE: listed()}
    machine.run(26 * WEEK)
    assert len(machine.asked) <= 27
    assert machine.taken == [OURS + 1], "it is used all the same"
    assert len(machine.events) == 1, "and told once"


def test_who_reached_nobody_asks_again_on_another_day(machine: Machine) -> None:
    machine.places = {PLACE: NetworkError("no route"), PLACE + "2": NetworkError("no route")}
    machine.run(RETRY / 2)
    assert len(machine.asked) == 2
    machine.run(3 * WEEK)
    assert len(machine.asked) >= 4
    assert machine.servers().listed is public_servers(), "never required"


def test_a_clock_that_was_set_back_does_not_end_it(machine: Machine) -> None:
    machine.store.save(StoredList(b"", NOW + 1000 * WEEK))
    machine.places = {PLACE: listed()}
    machine.run(FIRST_HIGH)
    assert len(machine.asked) == 1


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        (listed(OURS + 9, "2027-12-31", STRANGER), "not signed with a key that this package knows"),
        (listed(OURS + 2).replace(b"new.example", b"bad.example"), "forged"),
        (listed(OURS + 6, "2027-01-14"), "last day of list"),
        (listed(OURS + 4), "known already"),
        (b"<html>", "not signed"),
        (signed(b"sequence = 99\n", KEY), "no day"),
    ],
)
def test_a_place_that_has_no_good_list_changes_nothing(machine: Machine, there: bytes, reason: str) -> None:
    """And the other place is asked."""
    good = OURS + 5
    machine.store.save(StoredList(listed(good)))
    machine.places = {PLACE: there}
    machine.run(FIRST_HIGH)
    assert reason in machine.failures[0]
    assert machine.lists().status().used.sequence == good
    assert machine.taken == []
    machine.places[PLACE + "2"] = listed(good + 1)
    machine.run(3 * WEEK)
    assert machine.taken == [good + 1]
    assert machine.lists().status().used.sequence == good + 1


def test_an_old_list_is_not_taken_again_when_the_new_one_is_over(machine: Machine) -> None:
    """Whoever keeps the present list away cannot bring back one that names a server that has gone."""
    machine.store.save(StoredList(listed(OURS + 5, "2027-01-10")))
    machine.places = {PLACE: listed(OURS + 4)}
    assert machine.servers().listed is public_servers()
    machine.run(FIRST_HIGH)
    assert "known already" in machine.failures[0]
    assert machine.servers().listed is public_servers()


def test_a_key_that_leaves_the_package_takes_its_lists_along(machine: Machine) -> None:
    machine.store.save(StoredList(listed()))
    assert machine.lists().status().fetched
    assert not machine.lists(keys=(STRANGER,)).status().fetched


def test_a_list_that_the_package_has_caught_up_with_is_not_used(machine: Machine) -> None:
    machine.store.save(StoredList(listed(OURS)))
    assert machine.servers().listed is public_servers()


@pytest.mark.parametrize("data", [b"", b"{", b"[" * LARGEST_FILE, b'{"next_at": -1}', b'{"next_at": 1, "x": 2}'])
def test_a_file_that_is_none_counts_as_empty(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "list").write_bytes(data)
    assert list_store(tmp_path / "list").load() == StoredList()


def test_a_list_at_its_limit_can_be_kept(tmp_path: Path) -> None:
    stored = StoredList(("ä" * (LARGEST_LIST // 2)).encode(), 5.0)
    list_store(tmp_path / "list").save(stored)
    assert list_store(tmp_path / "list").load() == stored


async def test_names_of_a_fetched_list_lead_to_the_internet_alone(machine: Machine) -> None:
    async def resolve(host: str, port: int) -> tuple[Endpoint, ...]:
        return tuple(Endpoint(ip_address(ip), port) for ip in ("127.0.0.1", "192.168.1.1", "203.0.113.7"))

    async def inside(host: str, port: int) -> tuple[Endpoint, ...]:
        return (Endpoint(ip_address("10.0.0.1"), port),)

    async def made_up(host: str, port: int) -> tuple[Endpoint, ...]:
        return tuple(Endpoint(ip_address(ip), port) for ip in ("127.0.0.1", "198.18.0.9"))

    assert len(await machine.servers().guarded(resolve)("new.example.com", 1)) == 3
    machine.store.save(StoredList(listed()))
    guarded = machine.servers().guarded
    assert [str(found.ip) for found in await guarded(resolve)("new.example.com", 1)] == ["203.0.113.7"]
    with pytest.raises(NetworkError, match="not asked on a fetched list's word"):
        await guarded(inside)("new.example.com", 1)
    assert await guarded(inside)("nas.example.com", 1)
    # A proxy that makes addresses up for all names; nothing else comes along with that.
    assert [str(found.ip) for found in await guarded(made_up)("new.example.com", 1)] == ["198.18.0.9"]
    own = Config(turn=("turn:u:p@new.example.com",))
    assert await machine.servers(own).guarded(inside)("new.example.com", 1), "what the user names is his"


# -- the places --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=lists"
        f" -addext subjectAltName=IP:127.0.0.1 -keyout {folder}/key.pem -out {folder}/cert.pem".split(),
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context, str(folder / "cert.pem")


@asynccontextmanager
async def web(certificate: tuple[ssl.SSLContext, str], answer: Callable[[], Any]) -> AsyncIterator[str]:
    """An https server that answers every GET with what `answer` gives: bytes, one piece after the other."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            for piece in answer():
                writer.write(piece)
                await writer.drain()
            await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certificate[0]) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/servers.toml"


def http(status: str, body: bytes, *fields: str) -> Callable[[], list[bytes]]:
    head = "\r\n".join((f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields))
    return lambda: [head.encode() + b"\r\n\r\n" + body]


async def test_a_list_comes_over_https(certificate: tuple[ssl.SSLContext, str]) -> None:
    trust = Trust(certificate[1])
    data = listed()
    async with web(certificate, http("200 OK", data)) as place:
        assert await fetch_list(SystemNetwork(), place, trust, NO_PROXY) == data
        with pytest.raises(NetworkError, match="certificate"):
            await fetch_list(SystemNetwork(), place, Trust(), NO_PROXY)


def _endless() -> Any:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"400\r\n" + bytes(0x400) + b"\r\n"


def _drip() -> Any:
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(10)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            http("302 Found", b"", "Location: http://127.0.0.1:1/"),
            "it answers 302, and points to 'http://127",
        ),
        (http("304 Not Modified", b""), "it answers 304"),
        (http("404 Not Found", b"x"), "it answers 404"),
        (http("200 OK", b"\x1f\x8b" + bytes(50), "Content-Encoding: gzip"), "compressed"),
        (http("200 OK", bytes(17_000)), "more than 16384 bytes"),
        (_endless, "more than 16384 bytes"),
        (lambda: [b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000], "more than 16384 bytes"),
        (lambda: [b"garbage\r\n\r\n"], "not HTTP"),
        (_drip, "no answer within 0.3 s"),
    ],
)
async def test_places_that_misbehave(
    certificate: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch, answer: Any, reason: str
) -> None:
    if answer is _drip:
        monkeypatch.setattr(list_places, "PATIENCE", 0.3)
    async with web(certificate, answer) as place:
        with pytest.raises((NetworkError, ServiceError), match=reason):
            await fetch_list(SystemNetwork(), place, Trust(certificate[1]), NO_PROXY)


def test_a_place_that_says_nothing_is_given_up_after_fifteen_seconds() -> None:
    class Silent(SystemNetwork):
        async def resolve(self, host: str, port: int) -> Any:
            await asyncio.Event().wait()

    async def story() -> None:
        with pytest.raises(NetworkError, match="no answer within 15 s"):
            await fetch_list(Silent(), PLACE, Trust(), NO_PROXY)
        assert asyncio.get_running_loop().time() == pytest.approx(15.0)

    run_virtual(story())


async def test_doctor_asks_each_place(machine: Machine) -> None:
    machine.places = {PLACE: listed(), PLACE + "2": ServiceError("it answers 500")}
    first, second = await machine.lists().check(SystemNetwork())
    assert (first.sequence, first.error) == (OURS + 1, "")
    assert second.error == "it answers 500"
    assert machine.lists().status().fetched


# -- the maintainers' tool ---------------------------------------------------------------------------------------


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """On a copy of the package's data."""
    spec = importlib.util.spec_from_file_location("server_list_tool", ROOT / "tools" / "server_list.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("servers.toml", "list_keys.toml"):
        copy(ROOT / "src" / "warpgate" / "data" / name, tmp_path)
    monkeypatch.setattr(module, "DATA", tmp_path)
    monkeypatch.setattr(module, "OUT", tmp_path / "dist" / "servers.toml")
    return module


def test_a_key_is_made_and_a_list_signed_that_clients_take(
    tool: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    machine: Machine,
) -> None:
    keys = [tmp_path / name for name in ("old.pem", "new.pem")]
    for file in keys:
        assert tool.main(["key", str(file)]) == 0
        assert file.stat().st_mode & 0o077 == 0
    table = tomllib.loads((tmp_path / "list_keys.toml").read_text())
    known = ListKeys(tuple(map(bytes.fromhex, table["keys"])), ())
    assert [key.hex() for key in known.keys] == [Identity.from_pem(file.read_bytes()).public_key.hex() for file in keys]
    assert tool.main(["sign", *map(str, keys)]) == 0
    assert f"list {OURS + 1}, good until" in capsys.readouterr().out
    machine.store.save(StoredList(tool.OUT.read_bytes()))
    for key in known.keys:
        only = ListKeys((key,), ())
        lists = ServerLists(Config(), machine.store, lambda: NOW - 4_000_000, lambda only=only: only)
        listed = lists.newest()
        assert listed is not None
        assert listed.brokers == public_servers().brokers
    monkeypatch.setattr(tool, "list_keys", lambda: known)
    assert tool.main(["check", str(tool.OUT)]) == 0
    assert "11 brokers and 8 STUN servers, signed by" in capsys.readouterr().out


def test_what_the_tool_refuses(tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "key.pem"
    assert tool.main(["key", str(key)]) == 0
    assert tool.main(["key", str(key)]) == 1
    assert "is there already" in capsys.readouterr().err
    servers = tmp_path / "servers.toml"
    before = servers.read_text()
    servers.write_text(before.replace("stun.voipgate.com:3478", "192.168.1.1:3478"))
    assert tool.main(["sign", str(key)]) == 1
    assert "no host of the internet" in capsys.readouterr().err
    assert not tool.OUT.exists()
    servers.write_text(before)
    assert tool.main(["sign", str(key)]) == 0
    assert tool.main(["check", str(tool.OUT)]) == 1, "the package has no key"
    for number in range(3):
        assert tool.main(["key", str(tmp_path / f"{number}.pem")]) == 0
    assert tool.main(["key", str(tmp_path / "more.pem")]) == 1
    assert "take out one" in capsys.readouterr().err
