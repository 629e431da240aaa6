"""Attempts and machines whose pages are looked at."""

from __future__ import annotations

from ipaddress import ip_address

from warpgate.cli.pages import examination, explanation
from warpgate.cli.pages.examination import Examination
from warpgate.cli.pages.explanation import Explanation, Witness
from warpgate.cli.pages.masks import Masks
from warpgate.cli.records import Finding, PipeOpen
from warpgate.events import PathChosen, PathLost, PathOpened, PathsMissing, PathsWork, PluginReport
from warpgate.model.address import Attachment, LearntBy, Listening, NodeAddress
from warpgate.model.identity import Identity
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment

EIM = NatProfile(Mapping.EIM, Filtering.APDF)
SYMMETRIC = NatProfile(Mapping.APDM, Filtering.APDF, PortAssignment(Assignment.RANDOM))
WHEN = 1_800_000_000.0
# What peers, servers and routers may call themselves, and what would come of it.
ATTACKS = (
    "<script>window.attacked=1</script>",
    "\"><img src=x onerror='window.attacked=1'>",
    "</title></style></text></svg><svg onload=window.attacked=1>",
    "&lt;&#60;script&#62; ]]> --> \u202egpj.exe \x1b[2J\x00 \ud800 \u2028",
)
LONG = "w" * 200


def attachment(host: str, outside: str | None, nat: NatProfile = EIM) -> Attachment:
    udp = Listening(4242) if outside is None else Listening(4242, 5151, LearntBy.STUN)
    return Attachment(ip_address(host), None if outside is None else ip_address(outside), udp, Listening(4242), nat)


def address(*attachments: Attachment) -> NodeAddress:
    return NodeAddress(Identity.generate().public_key, (), attachments)


HERE = attachment("192.168.1.2", "198.51.100.1")
THERE = attachment("192.168.2.2", "198.51.100.2", SYMMETRIC)
V6 = attachment("2001:db8:1111:2222:3333:4444:5555:6666", "2001:db8:1111:2222:3333:4444:5555:6666")


def report(text: str) -> tuple[PluginReport, ...]:
    return (
        PluginReport("name", "info", "", None, None, ((-0.031, text),)),
        PluginReport("direct", "skipped", text, None, None),
        PluginReport("udp_punch", "won", "", 0.0, 0.061, ((0.0, "primed 198.51.100.2:5151"), (0.06, text))),
        PluginReport("tcp_punch", "lost", text, 0.002, 0.061, tuple((0.004 * n, text) for n in range(12))),
        PluginReport(text, "crashed", text, 0.0, None),
        PluginReport("signals", "info", "", None, None, ((0.001, "offer 1 sent over 2 brokers"),)),
    )


def opened(theirs: NodeAddress, local: str, remote: str, **more: object) -> PipeOpen:
    fields = {"plugin": "udp_punch", "mode": "stream", "transport": "udp", "relayed": False, "seconds": 0.061}
    return PipeOpen(**{**fields, "local": local, "remote": remote, "peer": theirs.node_id, "secure": True, **more})


def explained(text: str, **more: object) -> Explanation:
    """Where everything that others can have chosen is this text."""
    theirs = address(THERE)
    witness = Witness({text: 0.04}, {text: 0.02}, {text: "udp"}, theirs)
    pipe = opened(theirs, "192.168.1.2:4242", "198.51.100.2:5151", plugin=text, service=text)
    fields = {"name": text, "ours": address(HERE), "witness": witness, "report": report(text), "pipe": pipe}
    return Explanation(WHEN, **{**fields, **more})


def watched(text: str) -> Witness:
    """From a relay to a direct path, which is lost; another is found, of a strategy of that name."""
    witness, now = Witness({}, {}, {}, address(THERE)), [0.0]
    witness.clock = lambda: now[0]
    way = ("c", "p", text, "udp", "192.168.1.2:4242", text)
    first = ("c", "p", "turn", "tcp", "192.168.1.2:4242", "203.0.113.5:50000", True)
    for at, event in (
        (0.08, PathOpened(*first)),
        (0.08, PathChosen(*first, 0.08, 0.0, "the first path")),
        (1.1, PathOpened(*way, False)),
        (1.1, PathChosen(*way, False, 1.1, 0.0, text)),
        (3.0, PathLost("c", "p", "turn", "203.0.113.5:50000", text)),
        (5.0, PathLost("c", "p", text, text, text)),
        (5.0, PathsMissing("c", "p")),
        (6.2, PathOpened(*way, False)),
        (6.2, PathChosen(*way, False, 6.2, 1.2, text)),
        (6.2, PathsWork("c", "p", text, 1.2)),
    ):
        now[0] = at
        witness.observe(event)
    return witness


def examined(text: str) -> Examination:
    findings = [
        Finding(section, state, f"{section}: {text}")
        for section, state in (
            ("node", "ok"),
            ("NAT", "warning"),
            ("brokers", "ok"),
            ("brokers", "missing"),
            ("STUN", "info"),
            ("in short", "warning"),
        )
    ]
    return Examination(WHEN, findings, address(HERE))


def pages(text: str = "some text of a peer") -> dict[str, str]:
    """Every kind of page, by name."""
    far = address(attachment("192.168.1.3", "198.51.100.1"))
    near = Witness({}, {}, {}, far)
    v6 = address(V6)
    return {
        "won": explanation.page(explained(text)),
        "failed": explanation.page(explained(text, pipe=None, error=text)),
        "unknown": explanation.page(explained(text, pipe=None, error=text, witness=Witness(), report=())),
        "lan": explanation.page(
            explained(text, witness=near, pipe=opened(far, "192.168.1.2:4242", "192.168.1.3:4242"))
        ),
        "relayed": explanation.page(
            explained(text, pipe=opened(far, "192.168.1.2:4242", "203.0.113.5:50000", plugin="turn", relayed=True))
        ),
        "v6": explanation.page(
            explained(
                text,
                ours=address(V6),
                witness=Witness({}, {}, {}, v6),
                pipe=opened(v6, f"[{V6.host}]:4242", f"[{V6.host}]:4242"),
            )
        ),
        "watched": explanation.page(explained(text, witness=watched(text), watched=9.0)),
        "masked": examination.page(examined(text), Masks(())),
        "full": examination.page(examined(text), None),
        "servers": examination.page(Examination(WHEN, examined(text).findings[:-1], None), None),
    }
