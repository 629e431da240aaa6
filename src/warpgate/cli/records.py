"""What commands report: one frozen dataclass for each line of `--json`, with its sentence for people.

The names and fields of `ready`, `pipe`, `pong` and `failed` are fixed; scripts rely on
them.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

from warpgate.lazy_dataclass import dataclass

if TYPE_CHECKING:
    from warpgate.core.pipes.base import Pipe
    from warpgate.events import PluginReport


@dataclass(frozen=True, slots=True)
class Record:
    """Base of all records; `event` is the value of the JSON object's "event"."""

    event: ClassVar[str]

    @classmethod
    def of(cls, told: object, **more: Any) -> Self:
        """From the attributes that have the fields' names, but for those in `more`; times in whole microseconds."""
        taken = {each.name: getattr(told, each.name) for each in fields(cls) if each.name not in more}
        whole = {name: round(value, 6) if isinstance(value, float) else value for name, value in taken.items()}
        return cls(**whole, **more)

    def members(self) -> dict[str, Any]:
        """The JSON object, its "event" aside."""
        return asdict(self)

    def text(self) -> str:
        """The same for people; may span lines, "" for nothing."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class IdentityShown(Record):
    event = "id"
    node_id: str
    public_key: str  # 66 hexadecimal digits

    def text(self) -> str:
        return f"node id     {self.node_id}\npublic key  {self.public_key}"


@dataclass(frozen=True, slots=True)
class VersionShown(Record):
    event = "version"
    version: str

    def text(self) -> str:
        return f"warpgate {self.version}"


@dataclass(frozen=True, slots=True)
class UnitInstalled(Record):
    event = "installed"
    path: str
    unit: str

    def text(self) -> str:
        return (
            f"{self.path} is written. Start it now and at each login:\n"
            f"    systemctl --user daemon-reload && systemctl --user enable --now {self.unit}\n"
            f"and without a login, too: loginctl enable-linger"
        )


@dataclass(frozen=True, slots=True)
class AddressShown(Record):
    event = "address"
    node_id: str
    address: str

    def text(self) -> str:
        return self.address


@dataclass(frozen=True, slots=True)
class Ready(Record):
    event = "ready"
    node_id: str
    address: str

    def text(self) -> str:
        return f"listening as {self.node_id}\n{self.address}"


@dataclass(frozen=True, slots=True)
class Serving(Record):
    """A name server is up. `database` is what it was told, without a password."""

    event = "ready"
    url: str
    database: str

    def text(self) -> str:
        return f"serving names at {self.url} from {self.database}"


@dataclass(frozen=True, slots=True)
class ServeWarning(Record):
    """Something that the operator should know; the service goes on."""

    event = "warning"
    message: str

    def text(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class RendezvousShown(Record):
    """What clients put into their configuration. `stun`: endpoints here; `broker`, `relay`: which runs, "" for none."""

    event = "rendezvous"
    rendezvous: str
    stun: tuple[str, ...]
    broker: str
    relay: str

    def text(self) -> str:
        return f'rendezvous = "{self.rendezvous}"'


@dataclass(frozen=True, slots=True)
class PipeOpen(Record):
    event = "pipe"
    plugin: str
    mode: str
    transport: str
    relayed: bool
    seconds: float
    local: str
    remote: str
    peer: str
    secure: bool
    durable: bool = False
    service: str = ""  # only told where there is one

    def members(self) -> dict[str, Any]:
        told = asdict(self)
        if not self.service:
            del told["service"]
        return told

    @classmethod
    def of_pipe(cls, pipe: Pipe) -> PipeOpen:
        return cls.of(
            pipe,
            mode=pipe.mode.value,
            transport=pipe.transport.value,
            local=str(pipe.local),
            remote=str(pipe.remote),
        )

    def text(self) -> str:
        what = f" for {self.service}" if self.service else ""
        more = ", encrypted" * self.secure + ", relayed" * self.relayed
        return (
            f"{self.mode} with {self.peer}{what} by {self.plugin} over {self.transport.upper()}{more}"
            f" in {milliseconds(self.seconds)}: {self.local} - {self.remote}"
        )


@dataclass(frozen=True, slots=True)
class PathTaken(Record):
    """A durable connection goes on by another path, or has its first. `seconds` since it was begun, `gap` for how long
    the peer had not answered although something waited for it.
    """

    event = "path"
    plugin: str
    transport: str
    relayed: bool
    local: str
    remote: str
    seconds: float
    gap: float
    reason: str

    def text(self) -> str:
        how = f"by {self.plugin} over {self.transport.upper()}{', relayed' * self.relayed}"
        return f"now {how}: {self.local} - {self.remote} ({self.reason})"


@dataclass(frozen=True, slots=True)
class Pong(Record):
    event = "pong"
    seconds: float

    def text(self) -> str:
        return f"echo after {milliseconds(self.seconds)}"


@dataclass(frozen=True, slots=True)
class Received(Record):
    """What a pipe joined to stdout delivered, where stdout may hold nothing but JSON lines."""

    event = "data"
    base64: str

    def text(self) -> str:
        raise NotImplementedError("people get the bytes as they are")


@dataclass(frozen=True, slots=True)
class Forwarding(Record):
    event = "listening"
    local: str

    def text(self) -> str:
        return f"forwarding connections to {self.local}"


@dataclass(frozen=True, slots=True)
class Unserved(Record):
    """One connection could not be served; the command goes on. `peer` is a node id or a local endpoint."""

    event = "unserved"
    peer: str
    error: str

    def text(self) -> str:
        return f"{self.peer} was not served: {self.error}"


@dataclass(frozen=True, slots=True)
class Finding(Record):
    """One thing doctor found out. `state` is "ok", "warning", "missing" or "info"."""

    event = "finding"
    section: str
    state: str
    message: str

    def text(self) -> str:
        return f"  {MARKS[self.state]} {self.message}"


MARKS = {"ok": "+", "warning": "!", "missing": "-", "info": " "}


@dataclass(frozen=True, slots=True)
class KindShown(Record):
    """A kind of site the lab can put a host behind."""

    event = "kind"
    name: str
    description: str

    def text(self) -> str:
        return f"{self.name:15} {self.description}"


@dataclass(frozen=True, slots=True)
class LabHost(Record):
    """A host of a standing lab; `enter` is a shell command that gets one into it."""

    event = "host"
    name: str
    kind: str
    addresses: tuple[str, ...]
    outside: tuple[str, ...]
    enter: str

    def text(self) -> str:
        outside = f", outside {', '.join(self.outside)}" if self.outside else ""
        return f"{self.name}: {', '.join(self.addresses)} ({self.kind}{outside})\n  {self.enter}"


@dataclass(frozen=True, slots=True)
class Explained(Record):
    event = "explained"
    report: tuple[PluginReport, ...]

    def text(self) -> str:
        return explain_report(self.report)


@dataclass(frozen=True, slots=True)
class PageWritten(Record):
    event = "page"
    file: str

    def text(self) -> str:
        return f"{self.file} is written: look at it with a browser"


@dataclass(frozen=True, slots=True)
class Failed(Record):
    event = "failed"
    error: str
    report: tuple[PluginReport, ...] = ()

    def text(self) -> str:
        return self.error


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def span(seconds: float) -> str:
    """In the two largest units."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def explain_report(report: tuple[PluginReport, ...]) -> str:
    """A table of what each plugin did, with its notes below it; times are milliseconds after the start."""
    if not report:
        return "no strategy was tried"
    width = max(len("strategy"), *(len(row.plugin) for row in report))
    lines = [f"{'strategy':{width}}  {'started':>9}  {'ended':>9}  {'outcome':9}  reason"]
    for row in report:
        lines.append(
            f"{row.plugin:{width}}  {_clock(row.started):>9}  {_clock(row.ended):>9}  "
            f"{row.outcome:9}  {row.reason}".rstrip()
        )
        lines.extend(f"{'':{width}}  {_clock(at):>9}  {text}" for at, text in row.notes)
    return "\n".join(lines)


def _clock(at: float | None) -> str:
    return "-" if at is None else f"{at * 1000:.1f} ms"
