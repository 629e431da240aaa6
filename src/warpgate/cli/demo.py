"""`warpgate demo`: two real nodes behind two NATs, connected before your eyes.

Each scene is played for real in the lab (real kernel sockets, a real broker, 40 ms between any two places) and then
drawn in slow motion, since the real thing is over before a screen can show it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from warpgate.cli import demo_move
from warpgate.cli.options import UsageError
from warpgate.cli.shell import Shell
from warpgate.cli.terminal import unguarded
from warpgate.lab.scene import Moment, Scene, play
from warpgate.lazy_dataclass import dataclass
from warpgate.model.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

SLOWER = 20  # a 60 ms connect takes 1.2 s on the screen
FRAMES_PER_SECOND = 25
BAR = 44  # columns


@dataclass(frozen=True, slots=True)
class Act:
    """One scene: who is behind what, and what there is to see. `physics` is the limit that counting messages sets."""

    title: str
    story: str
    kind_a: str
    kind_b: str
    mode: str
    physics: float
    walls: tuple[str, str]


ACTS = (
    Act(
        "UDP: two laptops at home",
        "Both routers let nobody in. Each side must speak first, at the same moment.",
        "eim-apdf",
        "eim-apdf",
        "datagram",
        0.060,
        ("port-restricted NAT", "port-restricted NAT"),
    ),
    Act(
        "TCP: the same two, a plain stream socket",
        "Both call connect() in the same instant, and the two SYNs cross: one connection, no server in between.",
        "eim-apdf",
        "eim-apdf",
        "stream",
        0.120,
        ("port-restricted NAT", "port-restricted NAT"),
    ),
    Act(
        "A router that slams the door",
        "It answers strangers with RST: 20 ms too early, and the connection would be dead.",
        "eim-apdf+rst",
        "eim-apdf+rst",
        "stream",
        0.120,
        ("NAT that answers RST", "NAT that answers RST"),
    ),
    Act(
        "A symmetric NAT calls home",
        "Alice can be reached, bob hides behind a NAT that changes its port for everyone: so he is asked to call.",
        "public",
        "edm",
        "stream",
        0.100,
        ("", "symmetric NAT"),
    ),
)


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    scenes = tuple(range(1, len(ACTS) + 2))  # the last one is `demo_move`'s
    if arguments.scene is not None:
        if arguments.scene not in scenes:
            raise UsageError(f"--scene: there are {len(scenes)} scenes")
        scenes = (arguments.scene,)
    from rich.console import Console  # noqa: PLC0415 - 60 ms, which others need not wait for

    return shell.run(_demo(Console(file=unguarded(sys.stdout)), scenes, moving=sys.stdout.isatty()))


async def _demo(console: Console, scenes: Sequence[int], *, moving: bool) -> int:
    console.print()
    console.print("[bold]warpgate[/] gets a socket open between two machines, wherever they are.", highlight=False)
    console.print(
        "[dim]A whole internet on this machine: hosts, NAT routers, a message broker,\n"
        "a STUN server, 40 ms there and back between any two. Two real programs in it,\n"
        "alice and bob.[/]\n",
        highlight=False,
    )
    good = True
    for number in scenes:
        if number > len(ACTS):
            good &= await demo_move.show(console, number, moving=moving)
            continue
        act = ACTS[number - 1]
        scene = await play(act.kind_a, act.kind_b, act.mode)
        good &= scene.result.ok
        await _show(console, number, act, scene, moving=moving)
    console.print(
        "[bold green]That is all.[/] No server saw a byte of the data;\n"
        "the broker carried a sealed message or two each time.\n"
        if good
        else "[bold red]Something did not connect, or did not last.[/]\n",
        highlight=False,
    )
    console.print("Try it:   [bold]warpgate listen --echo[/]   and elsewhere   [bold]warpgate connect ADDRESS[/]")
    console.print("Play on:  [bold]warpgate lab up --a eim-apdf --b edm -- warpgate connect @b --ping 3[/]\n")
    return 0 if good else 1


async def _show(console: Console, number: int, act: Act, scene: Scene, *, moving: bool) -> None:
    from rich.live import Live  # noqa: PLC0415

    console.print(f"[bold cyan]{number}. {act.title}[/]", highlight=False)
    console.print(f"   [dim]{act.story}[/]", highlight=False)
    console.print(_map(act, scene), highlight=False)
    total = max(scene.result.seconds, 0.02)
    if moving:
        frames = max(1, int(total * SLOWER * FRAMES_PER_SECOND))
        with Live(console=console, refresh_per_second=FRAMES_PER_SECOND, transient=True) as live:
            for frame in range(frames + 1):
                live.update(_timeline(scene, total, total * frame / frames))
                await asyncio.sleep(1 / FRAMES_PER_SECOND)
    console.print(_timeline(scene, total, total))
    console.print(_verdict(act, scene), highlight=False)
    console.print()


def _map(act: Act, scene: Scene) -> str:
    lines = []
    for place, wall in zip(scene.places, act.walls, strict=True):
        there = f" ─┤ [yellow]{wall}[/] ├─ {place.outside}" if place.outside else " [green]on the open internet[/]"
        lines.append(f"   [bold]{place.name:5}[/] {place.host:12}{there}")
    return "\n".join(lines)


def _timeline(scene: Scene, total: float, now: float) -> Table:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table.grid(padding=(0, 1))
    table.add_column(width=14, justify="right")
    table.add_column(width=BAR)
    table.add_column()
    clock = Text(f"{now * 1000:5.0f} ms", style="bold")
    table.add_row(clock, Text("╶" + "─" * (BAR - 2) + "╴", style="dim"), Text(f"{SLOWER} x slower than real", "dim"))
    for name, moments in _lanes(scene):
        table.add_row(*_lane(name, moments, scene, total, now))
    return table


def _lanes(scene: Scene) -> list[tuple[str, list[Moment]]]:
    """The signal first, then each strategy that alice started, then those she skipped."""
    alice = scene.places[0].name
    lanes: dict[str, list[Moment]] = {"offer": []}
    for moment in scene.moments:
        if moment.event in ("SignalSent", "SignalReceived"):
            lanes["offer"].append(moment)
        elif moment.side == alice and moment.plugin and moment.event.startswith(("Plugin", "Link")):
            lanes.setdefault(moment.plugin, []).append(moment)
    skipped = [name for name, moments in lanes.items() if any(m.event == "PluginSkipped" for m in moments)]
    return sorted(lanes.items(), key=lambda lane: lane[0] in skipped)


def _lane(name: str, moments: list[Moment], scene: Scene, total: float, now: float) -> tuple[Text, Text, Text]:
    from rich.text import Text  # noqa: PLC0415

    def column(at: float) -> int:
        return min(BAR - 1, max(0, round(at / total * (BAR - 1))))

    bar = Text(" " * BAR)
    shown = [moment for moment in moments if moment.at <= now]
    if name == "offer":
        heard = next((moment for moment in moments if moment.event == "SignalReceived"), None)
        end = now if heard is None else min(heard.at, now)
        bar = Text("┄" * column(end) + "▷", style="magenta")
        told = (
            "on its way over the broker" if heard is None or heard.at > now else f"heard after {heard.at * 1000:.0f} ms"
        )
        return Text("sealed offer", style="magenta"), bar, Text(told, style="magenta")
    if any(moment.event == "PluginSkipped" for moment in moments):
        return (
            Text(name, style="dim"),
            bar,
            Text(f"skipped: {printable(moments[0].text)}", style="dim", overflow="ellipsis", no_wrap=True),
        )
    won = name == scene.result.plugin and now >= scene.result.seconds
    style = "bold green" if won else "blue"
    bar = Text("█" * (column(now) + 1), style=style)
    note = printable(shown[-1].text) if shown else ""
    said = f"✔ {scene.result.seconds * 1000:.0f} ms" if won else note
    return Text(name, style=style), bar, Text(said, style=style, overflow="ellipsis", no_wrap=True)


def _verdict(act: Act, scene: Scene) -> str:
    from rich.markup import escape  # noqa: PLC0415

    result = scene.result
    if not result.ok:
        return f"   [bold red]no pipe:[/] {escape(printable(result.error)) or 'no echo came back'}"
    offers = result.signals.get("SignalSent offer", 0)
    return (
        f"   [bold green]a {result.mode} pipe over {result.transport.upper()} after {result.seconds * 1000:.0f} ms[/]"
        f" [dim](what light and latency allow: {act.physics * 1000:.0f} ms);[/] alice said ping, bob answered."
        f"\n   [dim]{offers} signal, {scene.mappings} new NAT mappings, nothing relayed.[/]"
    )
