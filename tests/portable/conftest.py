from __future__ import annotations

from portable_kit import start

__all__ = ["start"]
