"""docs/configuration.md: what it says of settings is what they do, and none is missing."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from warpgate import Config, ConfigError
from warpgate.cli.options import CommonOptions
from warpgate.cli.parser import build_parser
from warpgate.cli.places import entrance_to_service, named_service_place, socks_to_service
from warpgate.cli.settings import load
from warpgate.user_settings import FALSE, KEYS, MORE_VARIABLES, TRUE

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "configuration.md").read_text()
CODE = re.compile(r"`([^`]+)`")
LISTS = ("broker", "stun", "turn", "ice_servers", "relay_peer", "names", "rendezvous", "interface")
COMMAS_OF_THEIR_OWN = ("ice_servers", "rendezvous")
SWITCHES = ("port_map", "json", "verbose")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below it, without its head."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines[2:]]


ROWS = {row[0].strip("`"): row for row in rows("Keys")}


def options(*words: str) -> CommonOptions:
    return CommonOptions.gather(build_parser().parse_args(words))


def test_every_key_has_a_row() -> None:
    assert tuple(ROWS) == KEYS


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_the_same_from_every_place(key: str, tmp_path: Path) -> None:
    _, flags, variable, field, example, default = (cell.strip("`") for cell in ROWS[key])
    written = example if key in ("port", *SWITCHES) else f'"{example}"'
    (tmp_path / "c.toml").write_text(f"{key} = {written}\n")
    flag = flags.split("`")[0]
    given = [
        load(CommonOptions(config=str(tmp_path / "c.toml")), {}),
        load(CommonOptions(), {variable: example}),
    ]
    if flag:  # secrets have none: others can read command lines
        given.append(load(options(flag) if key in SWITCHES else options(flag, example), {}))
    assert all(one == given[0] for one in given)
    assert given[0] != load(CommonOptions(), {})
    if key == "rendezvous":
        assert given[0].config.names
        assert given[0].config.brokers
    elif field:
        assert str(getattr(given[0].config, field)).lower().count(example)
        assert str(getattr(Config(), field)).lower() in (default, "none", "()")
    else:
        assert getattr(given[0], key)


@pytest.mark.parametrize("key", LISTS)
def test_several_values(key: str, tmp_path: Path) -> None:
    example = ROWS[key][4].strip("`")
    other = example.replace("example", "example.net").replace("203.0.113.5", "203.0.113.6") + (
        "1" if key in ("interface", "relay_peer") else ""
    )
    (tmp_path / "c.toml").write_text(f'{key} = ["{example}", "{other}"]\n')
    several = load(CommonOptions(config=str(tmp_path / "c.toml")), {})
    flag = f"--{key.replace('_', '-')}"
    assert several == load(options(flag, example, "doctor", flag, other), {})
    variable = f"WARPGATE_{key.upper()}"
    assert several == load(CommonOptions(), {variable: f"{example} {other}"})
    if key not in COMMAS_OF_THEIR_OWN:
        assert several == load(CommonOptions(), {variable: f"{example},{other}"})


def test_keys_may_have_hyphens(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('ice-servers = "https://rtc.example"\nport-map = false\n')
    config = load(CommonOptions(config=str(tmp_path / "c.toml")), {}).config
    assert (config.ice_servers, config.port_map) == (("https://rtc.example",), False)


def test_a_token_does_not_show(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('ice_token = "se-cret"\n')
    assert "se-cret" not in repr(load(CommonOptions(config=str(tmp_path / "c.toml")), {}))
    with pytest.raises(ConfigError, match="ice_token") as caught:
        load(CommonOptions(), {"WARPGATE_ICE_TOKEN": "se-cret\r\nX: y"})
    assert "se-cret" not in str(caught.value)


def test_the_words_of_switches() -> None:
    line = next(line for line in PAGE.splitlines() if line.startswith("- **Switches**"))
    assert tuple(CODE.findall(line)) == TRUE + FALSE


def test_the_other_variables() -> None:
    told = {cell for row in rows("Variables that are no settings") for cell in CODE.findall(row[0])}
    assert told == {f"WARPGATE_{name.upper()}" for name in MORE_VARIABLES} | {
        "SSL_CERT_FILE",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NO_PROXY",
    }
    known = {f"WARPGATE_{name.upper()}" for name in (*KEYS, *MORE_VARIABLES)}
    assert set(re.findall(r"WARPGATE_[A-Z_]+", PAGE)) == known


def test_the_places() -> None:
    """Every one that the page lists is one."""
    values = {
        "PORT": "80",
        "HOST": "nas.home",
        "IPV6": "::1",
        "ADDRESS": "0.0.0.0",
        "NETWORK[,NETWORK]": "10.0.0.0/8",
    }

    def typed(row: list[str]) -> list[str]:
        found = [text for text in CODE.findall(row[1]) if text != "udp:"]
        for name, value in values.items():
            found = [text.replace(name, value) for text in found]
        return found

    services, entrances = map(typed, rows("Services, their places, and targets")[:2])
    assert len(services) > len(entrances) > 4
    for text in services:
        named_service_place(text)
        named_service_place(f"web={text}")
    for text in entrances:
        entrance_to_service(text)
        socks_to_service(text)
        if "/" not in text and "unix" not in text:
            entrance_to_service(f"udp:{text}:dns")


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Their config file."""
    for name in (*KEYS, *MORE_VARIABLES):
        monkeypatch.delenv(f"WARPGATE_{name.upper()}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "warpgate").mkdir()
    return tmp_path / "warpgate" / "config.toml"


def test_the_library_reads_what_the_command_reads(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user.write_text('broker = "mqtt://file"\nstun = "file:1"\njson = true\n')
    monkeypatch.setenv("WARPGATE_STUN", "variable:1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = Config.from_user(durable=True, port=0)
    assert config == Config(brokers=("mqtt://file",), stun=("variable:1",), durable=True, port=0)


def test_the_library_tells_what_makes_no_sense(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPGATE_BROKERS", "mqtt://a")
    with pytest.warns(UserWarning, match="WARPGATE_BROKERS is set, but there is no such setting") as told:
        assert Config.from_user() == Config()
    assert told[0].filename == __file__
    user.write_text("brokers = []")
    monkeypatch.delenv("WARPGATE_BROKERS")
    with pytest.raises(ConfigError, match="unknown key 'brokers'"):
        Config.from_user()
