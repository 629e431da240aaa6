"""The scene of the demo in which the listener changes networks while a stream runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from warpgate.lab.scene import MoveScene, Place, play_move

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

TITLE = "Bob changes networks"
STORY = (
    "A durable pipe, and 64 bytes on it every 10 ms, each echoed. Then bob's\n"
    "   laptop leaves its network for another one, behind another router."
)
HOME, ELSEWHERE = "eim-apdf", "eim-apdf"
WALL = "port-restricted NAT"
SLOWER = 2
FRAMES_PER_SECOND = 25
BAR = 44  # columns


async def show(console: Console, number: int, *, moving: bool) -> bool:
    """Play it, draw it, and say whether the stream came through whole."""
    scene = await play_move(HOME, HOME, ELSEWHERE)
    console.print(f"[bold cyan]{number}. {TITLE}[/]", highlight=False)
    console.print(f"   [dim]{STORY}[/]", highlight=False)
    console.print(_map(scene), highlight=False)
    if moving and scene.opened.ok:
        from rich.live import Live  # noqa: PLC0415

        frames = int(scene.seconds * SLOWER * FRAMES_PER_SECOND)
        with Live(console=console, refresh_per_second=FRAMES_PER_SECOND, transient=True) as live:
            for frame in range(frames + 1):
                live.update(_timeline(scene, scene.seconds * frame / frames))
                await asyncio.sleep(1 / FRAMES_PER_SECOND)
    if scene.opened.ok:
        console.print(_timeline(scene, scene.seconds))
    console.print(verdict(scene), highlight=False)
    console.print()
    return scene.whole


def _map(scene: MoveScene) -> str:
    def line(place: Place, note: str) -> str:
        return f"   [bold]{place.name:5}[/] {place.host:12} ─┤ [yellow]{WALL}[/] ├─ {place.outside:14} [dim]{note}[/]"

    alice, before, after = scene.places
    return "\n".join((line(alice, ""), line(before, "at first"), line(after, "then")))


def flow(scene: MoveScene) -> str:
    """A column for each piece of time: `█` while echoes came, `·` while they should have and did not."""
    width = scene.seconds / BAR
    columns = []
    for column in range(BAR):
        middle = (column + 0.5) * width
        silent = any(ended - seconds < middle < ended for ended, seconds in scene.gaps)
        columns.append("·" if silent else "█")
    return "".join(columns)


def _timeline(scene: MoveScene, now: float) -> Table:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table.grid(padding=(0, 1))
    table.add_column(width=14, justify="right")
    table.add_column(width=BAR)
    table.add_column()
    shown = round(BAR * now / scene.seconds)
    clock = Text(f"{now:5.2f} s", style="bold")
    table.add_row(clock, Text("╶" + "─" * (BAR - 2) + "╴", style="dim"), Text(f"{SLOWER} x slower than real", "dim"))
    echoes = Text()
    for column in flow(scene)[:shown]:
        echoes.append(column, style="green" if column == "█" else "bold red")
    table.add_row(Text("echoes"), echoes, Text(""))
    home = round(BAR * scene.moved_at / scene.seconds)
    network = Text("━" * min(shown, home), style="blue") + Text("━" * max(0, shown - home), style="magenta")
    place = scene.places[1] if now < scene.moved_at else scene.places[2]
    table.add_row(
        Text("bob's network"),
        network,
        Text(place.outside, style="blue" if now < scene.moved_at else "magenta"),
    )
    return table


def verdict(scene: MoveScene) -> str:
    """What came of it."""
    from rich.markup import escape  # noqa: PLC0415

    if not scene.whole:
        return f"   [bold red]the stream did not come through:[/] {escape(scene.fault) or 'counters are missing'}"
    dark = max((seconds for _, seconds in scene.gaps), default=0.0)
    return (
        f"   [bold green]the pipe went on after {dark * 1000:.0f} ms[/]"
        f"\n   [dim]{scene.sent} counters sent, {scene.received} came back, each once and in order.[/]"
    )
