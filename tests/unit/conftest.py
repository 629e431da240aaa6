"""Examples that hypothesis makes for unit tests: few, and the same every time. Many more are those of `tests/property`
and of `make fuzz`.
"""

from hypothesis import settings

settings.register_profile("unit", derandomize=True, deadline=None, max_examples=20, database=None)
settings.load_profile("unit")
