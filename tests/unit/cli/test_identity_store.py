"""Keys on disk: private, whole, the same for everybody who asks at once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from warpgate.core.disk.identity_store import data_directory, load_or_create
from warpgate.errors import ConfigError


def test_a_new_identity_stays(tmp_path):
    first = load_or_create("default", tmp_path)
    path = tmp_path / "identities" / "default.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_or_create("default", tmp_path).node_id == first.node_id
    assert load_or_create("other", tmp_path).node_id != first.node_id
    assert sorted(item.name for item in path.parent.iterdir()) == ["default.pem", "other.pem"]


def test_a_loose_umask_changes_nothing(tmp_path):
    before = os.umask(0)
    try:
        load_or_create("default", tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "identities" / "default.pem").stat().st_mode) == 0o600


def test_processes_that_start_together_get_the_same_key(tmp_path):
    program = (
        "import sys; from warpgate.core.disk.identity_store import load_or_create; sys.stdin.read(1); "
        "print(load_or_create('x').node_id)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "WARPGATE_DATA": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:  # all have imported, or will find the key made: let them go
        process.stdin.write("x")
        process.stdin.flush()
    ids = {process.communicate()[0] for process in processes}
    assert len(ids) == 1
    assert len(ids.pop().strip()) == 26


def test_where_links_are_not_to_be_had(tmp_path, monkeypatch):
    def refuse(self, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    first = load_or_create("default", tmp_path)
    assert load_or_create("default", tmp_path).node_id == first.node_id
    assert stat.S_IMODE((tmp_path / "identities" / "default.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["", "..", ".hidden", "-x", "a/b", "../x", "a\\b", "a\n", "a" * 65, "é", "a b"])
def test_names_that_could_be_paths_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="no identity name"):
        load_or_create(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o601])
def test_a_key_that_others_may_read_is_refused(tmp_path, mode):
    load_or_create("default", tmp_path)
    path = tmp_path / "identities" / "default.pem"
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_or_create("default", tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"x" * 20_000, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END"])
def test_a_damaged_file_is_not_overwritten(tmp_path, content):
    load_or_create("default", tmp_path)
    path = tmp_path / "identities" / "default.pem"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"damaged.*delete it"):
        load_or_create("default", tmp_path)
    assert path.read_bytes() == content


def test_what_the_system_refuses_is_a_config_error(tmp_path):
    (tmp_path / "identities").write_text("a file where a directory should be")
    with pytest.raises(ConfigError, match=r"identities \(File exists\): set WARPGATE_DATA"):
        load_or_create("default", tmp_path)


def test_where_data_lives(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    monkeypatch.setenv("WARPGATE_DATA", "")
    assert data_directory() == tmp_path / ".local/share/warpgate"
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert data_directory() == Path("/xdg/warpgate")
    monkeypatch.setenv("WARPGATE_DATA", "/own")
    assert data_directory() == Path("/own")
