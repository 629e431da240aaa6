"""defaults < file < environment < options, and every mistake named."""

from __future__ import annotations

import pytest

from warpgate.cli.options import CommonOptions
from warpgate.cli.parser import build_parser
from warpgate.cli.settings import load
from warpgate.config import Config
from warpgate.errors import ConfigError
from warpgate.user_settings import KEYS, unknown_variables


def parse(*words: str) -> CommonOptions:
    return CommonOptions.gather(build_parser().parse_args(words))


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> dict[str, str]:
        (tmp_path / "warpgate").mkdir(exist_ok=True)
        (tmp_path / "warpgate" / "config.toml").write_text(text)
        return {"XDG_CONFIG_HOME": str(tmp_path)}

    return write


def test_variables_that_are_no_settings_are_told_apart():
    known = {f"WARPGATE_{key.upper()}": "" for key in KEYS} | {"WARPGATE_CONFIG": "", "WARPGATE_DATA": ""}
    assert unknown_variables(known | {"PATH": ""}) == ()
    assert unknown_variables(known | {"WARPGATE_BROKERS": ""}) == ("WARPGATE_BROKERS",)


def test_nothing_said_gives_the_defaults():
    settings = load(CommonOptions(), {})
    assert settings.config == Config()
    assert (settings.json, settings.verbose) == (False, False)
    assert settings.config.port_map


def test_each_place_overrides_the_one_below(write):
    environ = write('broker = "mqtt://file"\nstun = ["file:1"]\nport = 1001\nidentity = "file"')
    assert load(CommonOptions(), environ).config.brokers == ("mqtt://file",)
    environ |= {"WARPGATE_BROKER": "mqtt://env mqtts://env2", "WARPGATE_PORT": "1002"}
    chosen = load(parse("id", "--broker", "mqtt://option", "--identity", "option"), environ).config
    assert chosen.brokers == ("mqtt://option",)
    assert (chosen.stun, chosen.port, chosen.identity) == (("file:1",), 1002, "option")
    assert load(CommonOptions(), environ).config.brokers == ("mqtt://env", "mqtts://env2")


def test_options_count_before_and_after_the_command():
    words = [
        "--broker",
        "mqtt://a",
        "--port",
        "7",
        "--json",
        "id",
        "--broker",
        "mqtt://b",
        "--port",
        "8",
        "-v",
    ]
    options = parse(*words)
    assert options.broker == ("mqtt://a", "mqtt://b")
    assert options.port == 8  # said last
    assert options.json
    assert options.verbose


def test_options_reach_through_a_command_with_actions():
    options = parse("--stun", "a", "name", "--stun", "b", "show", "bob", "--stun", "c")
    assert options.stun == ("a", "b", "c")


@pytest.mark.parametrize("value", ["", " , "])
def test_an_empty_value_means_none(value, write):
    assert load(CommonOptions(), {"WARPGATE_BROKER": value}).config.brokers == ()
    assert load(parse("id", "--stun", ""), {"WARPGATE_STUN": "a,b"}).config.stun == ()
    assert load(CommonOptions(), write("broker = []\nstun = ''")).config.stun == ()


def test_a_switch_in_the_file_can_be_turned_off_again(write):
    environ = write("json = true\nverbose = true")
    assert load(CommonOptions(), environ).json
    assert not load(CommonOptions(), environ | {"WARPGATE_JSON": "off"}).json


def test_port_mapping_can_be_switched_off_and_on_again(write):
    environ = write("port_map = false")
    assert not load(CommonOptions(), environ).config.port_map
    assert load(CommonOptions(), environ | {"WARPGATE_PORT_MAP": "on"}).config.port_map
    assert not load(parse("--no-port-map"), {"WARPGATE_PORT_MAP": "on"}).config.port_map


def test_every_kind_of_server_and_interface_arrives():
    environ = {
        "WARPGATE_TURN": "turn:u:p@relay.example:3478?transport=tls",
        "WARPGATE_NAMES": "https://names.example,http://127.0.0.1:80/x",
        "WARPGATE_INTERFACE": "lo",
    }
    chosen = load(CommonOptions(), environ).config
    assert chosen.turn == ("turn:u:p@relay.example:3478?transport=tls",)
    assert chosen.names == ("https://names.example", "http://127.0.0.1:80/x")
    assert chosen.interfaces == ("lo",)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("brokers = []", "'brokers'"),
        ("port = 'high'", "port"),
        ("port = true", "port"),
        ("port = 65536", "port"),
        ("broker = 7", "broker"),
        ("broker = ['mqtt://a', 7]", "broker"),
        ("identity = ['a']", "identity"),
        ("json = 'yes'", "json"),
        ("broker = 'http://a'", "http://a"),
        ("broker = [", "TOML"),
        ("names = 'ftp://x'", "ftp://x"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_by_name(write, text, names):
    with pytest.raises(ConfigError, match=names):
        load(CommonOptions(), write(text))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="TOML"):
        load(CommonOptions(config=str(tmp_path / "c.toml")), {})


def test_only_a_file_that_was_named_must_exist(tmp_path):
    load(CommonOptions(), {"XDG_CONFIG_HOME": str(tmp_path)})
    for options, environ in (
        (CommonOptions(config=str(tmp_path / "no")), {}),
        (CommonOptions(), {"WARPGATE_CONFIG": str(tmp_path / "no")}),
    ):
        with pytest.raises(ConfigError, match="No such file"):
            load(options, environ)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WARPGATE_PORT", "0"),
        ("WARPGATE_PORT", "-1"),
        ("WARPGATE_PORT", "http"),
        ("WARPGATE_JSON", "maybe"),
        ("WARPGATE_BROKER", "mqtt://"),
        ("WARPGATE_STUN", "a:b"),
        ("WARPGATE_TURN", "turn:relay.example"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(name, value):
    with pytest.raises(ConfigError):
        load(CommonOptions(), {name: value})


def test_a_refused_relay_keeps_its_password():
    with pytest.raises(ConfigError) as refused:
        load(CommonOptions(), {"WARPGATE_TURN": "turn:user:hunter2@"})
    assert "hunter2" not in str(refused.value)


LINE = "warpgate://203.0.113.5/names=8421,broker=1883,stun=3478+3479"


def test_a_rendezvous_stands_for_its_servers(write):
    environ = write(f'rendezvous = "{LINE}"\nbroker = "mqtt://own"')
    config = load(CommonOptions(), environ).config
    assert config.names == ("http://203.0.113.5:8421",)
    assert config.brokers == ("mqtt://own", "mqtt://203.0.113.5:1883")
    assert config.stun == ("203.0.113.5:3478", "203.0.113.5:3479")


def test_a_rendezvous_counts_where_it_was_said(write):
    environ = write(f'rendezvous = "{LINE}"')
    config = load(parse("id", "--stun", "other:1"), environ).config
    assert (config.stun, config.brokers) == (("other:1",), ("mqtt://203.0.113.5:1883",))
    environ |= {"WARPGATE_RENDEZVOUS": "warpgates://a/names=443 warpgate://b/stun=3478"}
    config = load(CommonOptions(), environ).config
    assert config.names == ("https://a:443",)
    assert (config.stun, config.brokers) == (("b:3478",), ("mqtt://203.0.113.5:1883",))
    config = load(parse("--rendezvous", "warpgate://c/broker=1", "id"), environ).config
    assert (config.brokers, config.stun) == (("mqtt://c:1",), ("b:3478",))


def test_a_rendezvous_that_is_none_is_named():
    with pytest.raises(ConfigError, match="rendezvous: 'http://x' is not a rendezvous"):
        load(parse("id", "--rendezvous", "http://x"), {})
