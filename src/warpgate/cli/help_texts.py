"""What `--help` says at length. Paragraphs are filled; lines that begin with blanks stay as they are."""

from __future__ import annotations

import argparse
import re

DESCRIPTION = """\
Gets a socket open between two machines, wherever they are: behind NATs and firewalls, too.

    there                                     here
    warpgate listen --echo                    warpgate connect ADDRESS --ping 3
    warpgate listen --forward localhost:22    ssh -o ProxyCommand='warpgate connect %h' user@HOST
    warpgate receive                          warpgate send FILE ADDRESS

ADDRESS is what the command there prints; HOST is a nickname, or what `warpgate address --host-name ADDRESS` prints."""

# For commands whose description has none.
EXAMPLES = {
    "id": "warpgate id --identity work",
    "address": "warpgate address --qr",
    "status": "warpgate status --json",
    "doctor": "warpgate doctor",
    "explain": "warpgate explain @home.addr",
    "name": "warpgate name register alice",
    "name register": "warpgate name register alice",
    "name show": "warpgate name show alice",
    "name release": "warpgate name release alice",
    "name forget": "warpgate name forget alice",
    "serve": "warpgate serve --stun --broker --relay",
    "lab": "warpgate lab up --a eim-apdf --b edm",
    "lab up": "warpgate lab up --a eim-apdf --b edm -- warpgate connect @b --ping 3",
    "lab kinds": "warpgate lab kinds",
    "lab matrix": "warpgate lab matrix --kinds eim-apdf,edm --svg matrix.svg",
    "completion": "warpgate completion bash >~/.local/share/bash-completion/completions/warpgate",
    "manual": "warpgate manual | man -l -",
    "version": "warpgate version",
    "demo": "warpgate demo",
}

COMMON = "Also --json, -v, --identity and the other common options: see warpgate --help."

LISTEN = """\
Print the address that peers need, and wait for them. With --echo, --exec or --forward peers are served side by side
until the command is told to stop. Without these it is like `nc -l`: the first peer gets stdin and stdout, and the
command ends with it. --forward with names, and --receive, go together with these: peers say which service they want.
A child that --exec runs finds the peer's node id in WARPGATE_PEER; its exit status is told here, not to the peer.

    warpgate listen --forward ssh=22 --forward web=8080 --receive ~/incoming
    warpgate listen --exec 'tar c folder' --once
    warpgate listen --forward socks --allow 2lbgtqdcwyvmrkmmdx3bqadjgm"""

CONNECT = """\
Open a pipe to TARGET and join stdin and stdout to it, as netcat does: the end of the input is told to the peer, and
what the peer says still comes out until it ends, too. So it serves in pipelines, and as a ProxyCommand of ssh:

    tar c folder | warpgate connect TARGET
    ssh -o ProxyCommand='warpgate connect %h' user@HOST

With --listen each connection to the local port becomes a pipe of its own, until the command is told to stop:

    warpgate connect TARGET --listen 8080
    warpgate connect TARGET -L 15432:pg -L 8000:web

The exit status is 0 when both sides have ended in order, 1 when there is no way to the peer or the pipe broke."""

SEND = """\
Send files, and directories with all below them, to a peer that runs `warpgate receive`: encrypted, and verified by
SHA-256 at the other end. Without TARGET a code is printed, which is good for one use, and for an hour:

    warpgate send photos/                         here
    warpgate receive 4821-piano-zebra             there

It goes on when either side changes its network. When the connection breaks it is made again, and what the receiver has
already is not sent again; that is so too when the command is given once more. Modification times of files and the
executable bit are kept; symbolic links in a directory are left out, and told; so are files that cannot be read or
whose names cannot be sent, and then the exit status is 1."""

SERVICE = """\
Write a systemd user unit that runs COMMAND with this program, these words and the WARPGATE_* variables that are set
now. What is to be typed next is printed.

    warpgate install-service listen --forward 22
    warpgate install-service --unit inbox receive ~/incoming --allow 2lbgtqdcwyvmrkmmdx3bqadjgm"""

RECEIVE = """\
Take files and directories that peers send with `warpgate send`, and put them into DIR. Whoever has the address may
send, unless --allow says who; at a terminal you are then asked before anything is taken (--yes answers). Elsewhere, and
with --json, all is taken that comes. Never taken are names that begin with `.` or `-` or have something invisible in
them, and files are executable only from peers that --allow names. Nothing is overwritten unless --overwrite is given.
What is not complete yet waits in a hidden file or directory beside its place (ending in .wgpart) to be continued; it
can be deleted at any time.

With the CODE that `send` has printed, what comes is from the one who made it, and goes to the current directory.

    warpgate receive 4821-piano-zebra
    warpgate receive ~/incoming
    warpgate receive --allow 2lbgtqdcwyvmrkmmdx3bqadjgm"""


class Paragraphs(argparse.HelpFormatter):
    """Fills each paragraph by itself; examples, whose lines begin with blanks, are left as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)  # most options then have one line

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = []
        for paragraph in re.split(r"\n\n+", text):
            if paragraph.startswith(" "):
                filled.append("\n".join(indent + line for line in paragraph.splitlines()))
            else:
                filled.append(super()._fill_text(paragraph, width, indent))
        return "\n\n".join(filled)
