"""Kind names: the table, the grammar, the suffixes, and what is said about an unknown one."""

from __future__ import annotations

import itertools

import pytest

from warpgate.errors import ConfigError
from warpgate.lab.kinds import ASSIGNMENTS, FILTERINGS, KINDS, MAPPINGS, SUFFIXES, kind_of
from warpgate.lab.spec import Unsolicited
from warpgate.model.nat import Assignment, Filtering, Mapping


@pytest.mark.parametrize("name", KINDS)
def test_every_row_is_a_kind(name: str) -> None:
    assert kind_of(name).layers == KINDS[name]


@pytest.mark.parametrize(
    "parts", list(itertools.product(MAPPINGS, FILTERINGS, (*ASSIGNMENTS, "seq", "seq-4"))), ids="-".join
)
def test_systematic_names(parts: tuple[str, str, str]) -> None:
    mapping, filtering, assignment = parts
    (layer,) = kind_of("-".join(parts)).layers
    assert layer.nat.mapping is MAPPINGS[mapping]
    assert layer.nat.filtering is FILTERINGS[filtering]
    wanted = Assignment.SEQUENTIAL if assignment.startswith("seq") else ASSIGNMENTS[assignment].kind
    assert layer.nat.assignment.kind is wanted
    if assignment == "seq-4":
        assert layer.nat.assignment.step == 4


def test_short_names_and_defaults() -> None:
    assert kind_of("eim-apdf").layers == kind_of("eim").layers
    assert kind_of("apdm-apdf-random").layers == kind_of("edm").layers == kind_of("edm-apdf").layers
    assert kind_of("edm-seq").layers == kind_of("edm-apdf-seq-1").layers
    assert kind_of("edm-seq--2").layers[0].nat.assignment.step == -2
    assert kind_of("adm").layers[0].nat.mapping is Mapping.ADM
    assert kind_of("public").layers == ()
    assert kind_of("firewalled").layers[0].nat.mapping is Mapping.NONE


def test_suffixes_change_the_router_that_faces_the_internet() -> None:
    inner, outer = kind_of("eim-adf+rst+cgn+accept").layers
    assert inner.nat.unsolicited is Unsolicited.REJECT
    assert outer.nat.unsolicited is Unsolicited.ACCEPT
    assert inner.nat.filtering is Filtering.ADF
    assert inner.firewall is not None
    assert inner.firewall.unsolicited is Unsolicited.REJECT
    assert kind_of("eim+open6").layers[0].firewall is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_changes_something(suffix: str) -> None:
    base = "mape" if suffix == "exclusive" else "edm"
    assert kind_of(f"{base}+{suffix}").layers != kind_of(base).layers


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("cone", "masquerade"),
        ("", "firewalled"),
        ("eim-", "eim-apdf"),
        ("eim-apdf-", "apdf"),
        ("edm-seq-x", "seq-STEP"),
        ("eim-apdf+fast", "+hairpin"),
        ("public+rst", "no router"),
        ("firewalled+accept", "no address"),
        ("edm-seq-0", "step"),
    ],
)
def test_unknown_kinds_are_told_what_there_is(name: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind_of(name)
    if name != "eim-":
        assert named in str(caught.value)
