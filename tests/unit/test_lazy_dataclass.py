"""Classes of `lazy_dataclass` beside the same ones of the standard library: nobody can tell them apart."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
import pytest

from warpgate.lazy_dataclass import dataclass

T = TypeVar("T")
Decorator = Callable[..., Any]


def classes(decorator: Decorator) -> SimpleNamespace:
    @decorator(frozen=True, slots=True)
    class Point:
        """Where."""

        x: int
        y: int = 0
        NAMES: ClassVar[tuple[str, ...]] = ("x", "y")

    @decorator(frozen=True, slots=True)
    class Named(Point, Generic[T]):
        name: str = dataclasses.field(default="", kw_only=True)
        tags: list[str] = dataclasses.field(default_factory=list, compare=False)
        length: int = dataclasses.field(init=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "length", len(self.name))

    @decorator(frozen=True)
    class Open:
        x: int

    @decorator(slots=True)
    class Changing:
        x: int
        y: list[int] = dataclasses.field(default_factory=list, repr=False)

    @decorator(eq=False)
    class Alone:
        x: int = 1

    @decorator(frozen=True, slots=True)
    class Own:
        x: int

        def __repr__(self) -> str:
            return "own"

        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            return True

    @decorator
    class Made:
        x: int

        def __init__(self) -> None:
            self.x = 5

    class Derived(Open):
        extra = 1

    return SimpleNamespace(
        Point=Point,
        Named=Named,
        Open=Open,
        Changing=Changing,
        Alone=Alone,
        Own=Own,
        Made=Made,
        Derived=Derived,
    )


CALLS: list[Callable[[SimpleNamespace], object]] = [
    lambda of: repr(of.Point(1)),
    lambda of: repr(of.Named(1, 2, name="three")),
    lambda of: repr(of.Changing(1)),
    lambda of: (of.Point(1) == of.Point(1, 0), of.Point(1) == of.Point(2), of.Point(1) == of.Open(1)),
    lambda of: of.Named(1, tags=["a"]) == of.Named(1),
    lambda of: (hash(of.Point(1, 2)), hash(of.Named(1, 2, name="x")), hash(of.Own(1))),
    lambda of: (of.Own(1) == of.Own(2), repr(of.Own(1))),
    lambda of: hash(of.Changing(1)),
    lambda of: of.Alone() == of.Alone(),
    lambda of: len({of.Alone(), of.Alone()}),
    lambda of: of.Point(),
    lambda of: of.Point(1, 2, 3),
    lambda of: of.Named(1, length=3),
    lambda of: setattr(of.Point(1), "x", 2),
    lambda of: setattr(of.Open(1), "z", 2),
    lambda of: delattr(of.Point(1), "x"),
    lambda of: setattr(of.Derived(1), "x", 2),
    lambda of: setattr(of.Derived(1), "extra", 2),
    lambda of: setattr(of.Changing(1), "z", 2),
    lambda of: [field.name for field in dataclasses.fields(of.Named)],
    lambda of: dataclasses.asdict(of.Named(1, name="x")),
    lambda of: dataclasses.astuple(dataclasses.replace(of.Point(1), y=5)),
    lambda of: repr(copy.deepcopy(of.Named(1, name="x", tags=["a"]))),
    lambda of: repr(copy.copy(of.Point(1, 2))),
    lambda of: str(inspect.signature(of.Named)),
    lambda of: str(inspect.signature(of.Derived)),
    lambda of: (str(inspect.signature(of.Made)), of.Made().x),
    lambda of: of.Point.__doc__,
    lambda of: of.Point.__match_args__,
    lambda of: of.Named.__slots__,
    lambda of: of.Point.NAMES,
    lambda of: repr(msgspec.convert({"x": 3}, of.Open)),
    lambda of: msgspec.json.encode(of.Point(1, 2)),
    lambda of: of.Point.__init__.__qualname__,
]


def outcome(call: Callable[[SimpleNamespace], object], of: SimpleNamespace) -> object:
    try:
        return call(of)
    except (TypeError, AttributeError) as error:
        return type(error), str(error)


@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
def test_like_the_standard_library(call: Callable[[SimpleNamespace], object]) -> None:
    """On the first call of a fresh class and on the second."""
    ours, standard = classes(dataclass), classes(dataclasses.dataclass)
    wanted = outcome(call, standard)
    assert [outcome(call, ours), outcome(call, ours)] == [wanted, wanted]


@dataclass(frozen=True, slots=True)
class Sent:
    x: int
    y: str = ""


def test_it_is_pickled() -> None:
    assert pickle.loads(pickle.dumps(Sent(1, "a"))) == Sent(1, "a")


def test_nothing_is_compiled_before_it_is_used() -> None:
    """Seen by an audit hook of the interpreter, in a process of its own, as no hook can be taken away."""
    script = """
import dataclasses, sys
from warpgate.lazy_dataclass import dataclass
compiled = []
sys.addaudithook(lambda event, of: compiled.append(of) if event == "compile" and "__init__" in str(of) else None)
@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int
before = len(compiled)
Point(1, 2)
print(before, len(compiled))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "0 1\n"
