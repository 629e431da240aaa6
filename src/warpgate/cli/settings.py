"""What the command was told: the user's settings (`user_settings.py`), and options above them."""

from __future__ import annotations

from collections.abc import Mapping

from warpgate.cli.options import CommonOptions
from warpgate.config import Config
from warpgate.lazy_dataclass import dataclass
from warpgate.user_settings import node_config, read_choices


@dataclass(frozen=True, slots=True)
class Settings:
    """The node's configuration and how to talk to the user."""

    config: Config
    json: bool = False
    verbose: bool = False


def load(options: CommonOptions, environ: Mapping[str, str]) -> Settings:
    """ConfigError names the key and the place that make no sense."""
    found = read_choices(environ, file=options.config, above=options)
    return Settings(node_config(found), json=bool(found.json), verbose=bool(found.verbose))
