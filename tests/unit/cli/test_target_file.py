"""TARGET as @FILE: with the file below the home directory, as in an ssh configuration, where no shell expands it."""

from __future__ import annotations

from cli_fakes import target_text

from warpgate.cli.target import parse_target
from warpgate.config import Config
from warpgate.model.address import NodeAddress


def test_a_file_below_the_home_directory_in_either_form(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    address = NodeAddress.from_text(target_text())
    for text in (address.to_text(), address.to_host_name().upper() + "\n"):
        (tmp_path / "home.addr").write_text(text)
        assert parse_target("@~/home.addr", Config()) == address
        assert parse_target(text, Config()) == address
