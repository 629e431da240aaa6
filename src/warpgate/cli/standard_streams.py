"""Descriptors 0 to 2 are there, however the program was started.

Where one is closed (`<&-`, `>&-`, some supervisors), the next file or socket that is opened gets its number: what is
written to "stdout" would go into it, for example into the event loop's own. So it is filled by the null device before
anything is opened.
"""

from __future__ import annotations

import os
import sys

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def fill_standard_streams() -> None:
    """To be called first. What is open stays as it is; OSError only where there is no null device."""
    for descriptor, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is this one
        if getattr(sys, name) is None:  # Python has found it closed
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))
