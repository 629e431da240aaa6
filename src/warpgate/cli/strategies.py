"""The strategies there are, as --help and doctor list them: the built-in ones and what is installed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from warpgate.cli.records import Finding

if TYPE_CHECKING:
    from warpgate.plugins.registry import Registry


class ViaAction(argparse.Action):
    """Collects what it is given; its help text may name `%(strategies)s`, which are looked up when it is shown."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, **options)
        self.strategies = _Names()

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or ()), values])


class _Names:
    def __str__(self) -> str:
        from warpgate.plugins.registry import registered_names  # noqa: PLC0415 - only where help is asked for

        return ", ".join(registered_names())


def strategy_findings(registry: Registry) -> Iterator[Finding]:
    """For doctor: what takes part in a connect, and what is installed but broken."""
    section = "strategies"
    names = list(registry.all())
    own = [name for name in names if not registry.package_of(name)]
    yield Finding(section, "ok", ", ".join(own))
    for name in names:
        package = registry.package_of(name)
        if package:
            yield Finding(section, "ok", f"{name}, installed with {package}")
    for broken in registry.broken:
        yield Finding(section, "warning", f"{broken.entry} of {broken.package} cannot be used: {broken.reason}")
