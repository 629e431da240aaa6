"""The grammar of the command line, and nothing that runs: `--help` must stay quick."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from warpgate.cli.help_texts import (
    COMMON,
    CONNECT,
    DESCRIPTION,
    EXAMPLES,
    LISTEN,
    RECEIVE,
    SEND,
    SERVICE,
    Paragraphs,
)
from warpgate.cli.options import (
    UsageError,
    add_common_options,
    count_or_none,
    not_negative,
    port_number,
    positive_count,
    positive_seconds,
    unit_name,
)
from warpgate.cli.places import entrance_to_service, named_service_place, socks_to_service
from warpgate.cli.rendezvous_options import add_rendezvous_options
from warpgate.cli.strategies import ViaAction
from warpgate.cli.suggestions import did_you_mean

TARGET_HELP = "an address (wg1...), @FILE holding one, or a nickname"
HTML_HELP = "write the same as a page for browsers into FILE"
SERVICE_HELP = f"{TARGET_HELP}; /SERVICE behind it for one of several that it offers"


class Parser(argparse.ArgumentParser):
    """Options are spelt out, and errors raised: `main` decides how to say them."""

    def __init__(self, **settings: object) -> None:
        super().__init__(allow_abbrev=False, formatter_class=Paragraphs, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        hint = ""
        if wrong := re.search(r"invalid choice: '?([\w-]+)'?", message):
            hint = did_you_mean(wrong[1], self.commands)
            if hint:
                message = f"there is no command {wrong[1]!r}{hint}"
        raise UsageError(f"{message} (see {self.prog} --help)")

    def format_help(self) -> str:
        """With an example behind the description."""
        example = EXAMPLES.get(self.prog.removeprefix("warpgate "))
        if example is not None and "\n    warpgate" not in (self.description or ""):
            self.description = f"{self.description}\n\n    {example}"
        return super().format_help()

    @property
    def commands(self) -> dict[str, Parser]:
        """By name; {} for one that has none."""
        found = [action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return dict(found[0]) if found else {}

    def parse_args(self, args: Sequence[str], namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        """As argparse has it, but what is unknown is told with what was probably meant."""
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = self.commands.get(arguments.command, self)
            option = unknown[0].partition("=")[0]
            hint = did_you_mean(option, parser._option_string_actions) if option.startswith("--") else ""
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return arguments


class JsonLinesOrFile(argparse.Action):
    """`--json FILE` names a file, `--json` alone is the common option."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if values is None:
            setattr(namespace, self.dest, True)
        else:
            namespace.json_file = values


def build_parser() -> Parser:
    """`command` in the result is the command's name; `CommonOptions.gather` collects the common options."""
    parser = Parser(prog="warpgate", description=DESCRIPTION, usage="warpgate [OPTION]... COMMAND ...")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", prog="warpgate")
    add_common_options(parser, level=0)

    def command(name: str, text: str, arguments: str = "", *, servers: bool = True) -> Parser:
        usage = f"warpgate {name} [OPTION]... {arguments}".rstrip()
        added: Parser = commands.add_parser(name, help=text, description=text, usage=usage, epilog=COMMON)
        add_common_options(added, level=1, servers=servers)
        return added

    command("id", "print node id and public key")
    _add_address(command("address", "print this node's address"))
    _add_listen(command("listen", "wait for peers"))
    _add_connect(command("connect", "open a pipe to TARGET", "TARGET[/SERVICE]"))
    _add_send(command("send", "send files or directories, to TARGET or by a one-time code", "FILE... [TARGET]"))
    _add_receive(command("receive", "take files that peers send", "[CODE] [DIR]"))
    command("status", "tell what runs with this identity: services, pipes, brokers, address")
    _add_doctor(command("doctor", "tell what works here and what does not"))
    explain = command("explain", "connect, then tell what each strategy did and why", "TARGET[/SERVICE]")
    _add_connecting(explain)
    explain.add_argument("--html", metavar="FILE", help=f"{HTML_HELP}, and both NATs drawn")
    explain.add_argument(
        "--watch",
        type=positive_seconds,
        metavar="S",
        help="connect durably, and tell which paths it takes for S seconds",
    )
    explain.set_defaults(durable=False)
    _add_name(command("name", "register, show or release a nickname, or forget its key"))
    _add_serve(command("serve", "run a name server, and STUN and a broker beside it", servers=False))
    _add_lab(command("lab", "a whole internet on one machine"))
    _add_completion(command("completion", "print a shell's completion script", "SHELL", servers=False))
    command("manual", "print the manual page", servers=False)
    _add_service(command("install-service", "have systemd run a command", "COMMAND ...", servers=False))
    command("version", "print the version", servers=False)
    demo = command("demo", "two nodes behind two NATs in the lab, the cascade drawn live")
    demo.add_argument("--scene", type=positive_count, metavar="N", help="only the Nth of its scenes")
    return parser


def _add_address(parser: Parser) -> None:
    parser.add_argument("--qr", action="store_true", help="print it as a QR code too")
    parser.add_argument(
        "--host-name",
        nargs="?",
        const="",
        metavar="TARGET",
        help="as a host name without capital letters, for ssh; or not this node's address but that of TARGET",
    )


def _add_completion(parser: Parser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")


def _add_service(parser: Parser) -> None:
    parser.description = SERVICE
    parser.add_argument("--unit", default="warpgate", metavar="NAME", type=unit_name, help="(default warpgate)")
    parser.add_argument("--replace", action="store_true", help="write over a unit of that name")
    parser.add_argument("--print", action="store_true", dest="show", help="print the unit, and write nothing")
    parser.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="COMMAND", help="listen, receive or serve, with options"
    )


def _add_doctor(parser: Parser) -> None:
    parser.add_argument(
        "--servers",
        action="store_true",
        help="test every broker and STUN server of the settings, or of the list of public ones, instead",
    )
    parser.add_argument(
        "--html",
        metavar="FILE",
        help=f"{HTML_HELP}, for a bug report: addresses, keys and private names are masked",
    )
    parser.add_argument("--full", action="store_true", help="mask nothing in the page of --html")


def _add_listen(parser: Parser) -> None:
    parser.description = LISTEN
    parser.add_argument("--name", metavar="NAME", help="register this nickname and keep it registered")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--echo", action="store_true", help="answer every byte or datagram with itself")
    what.add_argument(
        "--exec",
        metavar="CMD",
        dest="exec_command",
        help="run CMD for each peer, its stdin and stdout on the pipe",
    )
    parser.add_argument(
        "--forward",
        type=named_service_place,
        action="append",
        default=[],
        metavar="[NAME=][HOST:]PORT",
        help="connect each peer to this TCP service; udp:[HOST:]PORT; /PATH or unix:PATH, a socket in the file system; "
        "socks[:any|:NETWORK,...], a proxy to public addresses, to any, or to these networks; repeatable with a NAME, "
        "by which peers say which one they want",
    )
    parser.add_argument("--receive", metavar="DIR", help="take files that peers send, into DIR")
    parser.add_argument(
        "--relay",
        type=port_number,
        nargs="?",
        const=0,
        metavar="PORT",
        help="lend this machine as a relay to the nodes of --allow, if it can be reached from outside",
    )
    parser.add_argument("--allow", action="append", metavar="ID", help="only let this node in; repeatable")
    parser.add_argument(
        "--tls", action="store_true", help="refuse pipes that are not encrypted (peers use --tls, or QUIC)"
    )
    parser.add_argument("--once", action="store_true", help="exit after the first pipe has ended")
    parser.add_argument(
        "--metrics",
        type=port_number,
        metavar="PORT",
        help="tell Prometheus, at http://127.0.0.1:PORT/metrics",
    )


def _add_connecting(parser: Parser) -> None:
    parser.add_argument("target", metavar="TARGET[/SERVICE]", help=SERVICE_HELP)
    parser.add_argument(
        "--via", action=ViaAction, metavar="P[,P]", help="only these strategies (there are %(strategies)s)"
    )
    parser.add_argument("--datagram", action="store_true", help="datagrams as UDP gives them, no stream")
    parser.add_argument("--transport", choices=("tcp", "udp"), help="only links over this")
    parser.add_argument(
        "--tls",
        action="store_true",
        help="an encrypted stream on every path: QUIC over UDP, TLS pinned to the peer's key over TCP",
    )
    parser.add_argument("--timeout", type=positive_seconds, metavar="S", help="give up after S seconds")


def _add_connect(parser: Parser) -> None:
    parser.description = CONNECT
    _add_connecting(parser)
    parser.add_argument(
        "--durable",
        action=argparse.BooleanOptionalAction,
        help="a pipe that outlives its path: it is encrypted, and goes on when either side changes its network. The "
        "default, but with --datagram (1,150 bytes each then), --transport tcp and --ping; --no-durable: a plain "
        "stream, as fast as its path",
    )
    parser.add_argument("--ping", type=positive_count, metavar="N", help="measure N echoes of a `listen --echo` peer")
    parser.add_argument(
        "-L",
        "--listen",
        type=entrance_to_service,
        action="append",
        metavar="[ADDR:]PORT[:SERVICE]",
        help="forward connections to this port (without ADDR: from this machine alone) to the service, a pipe each; "
        "udp:[ADDR:]PORT; /PATH or unix:PATH, a socket in the file system; repeatable",
    )
    parser.add_argument(
        "--socks",
        type=socks_to_service,
        action="append",
        dest="listen",
        metavar="[ADDR:]PORT[:SERVICE]",
        help="be a SOCKS5 proxy at this port, through a `listen --forward socks` peer",
    )


def _add_send(parser: Parser) -> None:
    parser.description = SEND
    parser.add_argument(
        "words",
        nargs="*",
        metavar="FILE",
        help="files and directories; last, TARGET, if it is not the name of a file",
    )
    parser.add_argument("--text", metavar="TEXT", help="send this text, which is shown there, and no file")
    parser.add_argument("--to", metavar="TARGET", help=f"{TARGET_HELP}, whatever files there are")
    parser.add_argument("--qr", action="store_true", help="print the one-time code as a QR code too")
    parser.add_argument(
        "--via", action=ViaAction, metavar="P[,P]", help="only these strategies (there are %(strategies)s)"
    )
    parser.add_argument("--transport", choices=("tcp", "udp"), help="only links over this")
    parser.add_argument("--timeout", type=positive_seconds, metavar="S", help="give up a connect after S seconds")
    parser.add_argument(
        "--patience",
        type=positive_seconds,
        metavar="S",
        help="after a break, go on trying until nothing got through for S seconds (default 120)",
    )
    parser.set_defaults(datagram=False, tls=True, durable=None)


def _add_receive(parser: Parser) -> None:
    parser.description = RECEIVE
    parser.add_argument(
        "words",
        metavar="[CODE] [DIR]",
        nargs="*",
        help="what `send` printed at the other side; an existing directory (default with a code, or with --allow: the "
        "current one)",
    )
    parser.add_argument("--name", metavar="NAME", help="register this nickname and keep it registered")
    parser.add_argument("--allow", action="append", metavar="ID", help="only from this node; repeatable")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files of the same name, and add to directories"
    )
    parser.add_argument("--yes", action="store_true", help="take what comes without asking at the terminal")
    parser.add_argument(
        "--dotfiles", action="store_true", help="take names that begin with . or - as well, such as .profile"
    )
    parser.add_argument(
        "--executable",
        action="store_true",
        help="keep the executable bit, whoever sends (default: with --allow)",
    )
    parser.add_argument("--once", action="store_true", help="exit when one file or directory was received")


def _add_name(parser: Parser) -> None:
    actions = parser.add_subparsers(
        title="actions", metavar="ACTION", dest="action", required=True, prog="warpgate name"
    )
    for action, text in (
        ("register", "claim NAME for this identity"),
        ("show", "look NAME up"),
        ("release", "give NAME up"),
        ("forget", "drop NAME from the contact book: whatever key it has next is trusted"),
    ):
        added: Parser = actions.add_parser(action, help=text, description=text, epilog=COMMON)
        added.add_argument("name", metavar="NAME", help="the nickname")
        add_common_options(added, level=2)


SERVE = """\
Serve nicknames over HTTP until told to stop: records signed by their owners, first come, first served. --port is the
HTTP port (default 8421). Put a proxy that speaks HTTPS in front where privacy matters: records cannot be forged, but
look-ups can be watched."""


def _add_serve(parser: Parser) -> None:
    parser.description = SERVE
    parser.add_argument("--host", metavar="H", help="address to listen on (default: all)")
    parser.add_argument(
        "--database",
        metavar="WHERE",
        help="SQLite file (default: in the data directory) or postgresql://USER:PASSWORD@HOST/NAME",
    )
    parser.add_argument(
        "--trust-proxy",
        action="store_true",
        help="take the client's address from the last X-Forwarded-For: only behind a proxy that sets it",
    )
    add_rendezvous_options(parser)
    limits = parser.add_argument_group("limits (0: none)")
    for name, default, text in (
        ("names-per-key", 16, "names that one key can hold"),
        ("names-per-network", 64, "names registered from one network (IPv4 address, IPv6 /56)"),
        ("writes-per-key", 12, "a minute"),
        ("writes-per-network", 120, "a minute"),
        ("lookups-per-network", 600, "a minute"),
        ("connections-per-network", 64, "open at once"),
    ):
        limits.add_argument(
            f"--{name}", type=count_or_none, default=default, metavar="N", help=f"{text} (default {default})"
        )
    parser.add_argument(
        "--connections", type=positive_count, default=4096, metavar="N", help="open at once (default 4096)"
    )


LAB_UP = """\
Build two hosts behind NATs and a server (MQTT, STUN) between them, and run commands in the hosts. Words @b in
COMMAND_A become the address that COMMAND_B prints; COMMAND_B is then "warpgate listen --echo" unless given. Without
commands the lab stands until Ctrl-C, and how to enter it is printed."""


def _add_lab(parser: Parser) -> None:
    actions = parser.add_subparsers(
        title="actions", metavar="ACTION", dest="action", required=True, prog="warpgate lab"
    )

    def action(name: str, text: str, arguments: str = "", *, json: bool = True) -> Parser:
        usage = f"warpgate lab {name} [OPTION]... {arguments}".rstrip()
        added: Parser = actions.add_parser(name, help=text, description=text, usage=usage, epilog=COMMON)
        add_common_options(added, level=2, json=json)
        return added

    up = action("up", "run commands in two hosts behind NATs", "--a KIND --b KIND [-- COMMAND_A [:: COMMAND_B]]")
    up.description = LAB_UP
    up.add_argument("--a", required=True, metavar="KIND", help="what host a is behind (see warpgate lab kinds)")
    up.add_argument("--b", required=True, metavar="KIND", help="what host b is behind")
    up.add_argument(
        "--delay",
        type=not_negative,
        default=10.0,
        metavar="MS",
        help="of each host's line, one way (default 10: 40 ms from host to host and back)",
    )
    up.add_argument("--loss", type=not_negative, default=0.0, metavar="PCT", help="packets lost by each line, each way")
    action("kinds", "list what --a and --b can be")
    _add_lab_matrix(action("matrix", "connect every kind of site to every other one", json=False))


LAB_MATRIX = """\
Connect every kind of site to every other one, through real network namespaces, and tell for each pair which strategy
won, the median time, the packets that both hosts sent, and the entries it made in the NATs' tables. What should not
be so is marked: a pair that does not connect, one that is relayed though its routers could be crossed, and a connect
that costs too much; then the exit status is 1."""


def _add_lab_matrix(matrix: Parser) -> None:
    matrix.description = LAB_MATRIX
    matrix.add_argument("--kinds", metavar="K[,K...]", help="of sites, for IPv4 (see warpgate lab kinds)")
    matrix.add_argument("--kinds6", metavar="K[,K...]", help="the same for IPv6")
    matrix.add_argument(
        "--modes", metavar="M[,M]", help="datagram, tcp (streams), stream (over either); default datagram,tcp"
    )
    matrix.add_argument("--count", type=positive_count, metavar="N", help="connects for each pair and mode (default 3)")
    matrix.add_argument(
        "--relay-patience",
        type=not_negative,
        metavar="S",
        help="how long a relay waits where a port has to be guessed (default 15; users wait 1)",
    )
    matrix.add_argument("--no-relay", action="store_true", help="let the nodes know no TURN server")
    matrix.add_argument("--svg", metavar="FILE", dest="svg_file", help="draw the matrix into FILE")
    matrix.add_argument("--resume", action="store_true", help="keep the cells that the FILE of --json holds already")
    matrix.set_defaults(json_file=None)
    # The common --json, except that a word after it is a file, which leaves stdout to people.
    matrix.add_argument(
        "--json",
        action=JsonLinesOrFile,
        nargs="?",
        metavar="FILE",
        dest="json_2",
        help="write the matrix into FILE; without FILE: one JSON object a line on stdout",
    )
