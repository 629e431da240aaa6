"""`dataclass` of the standard library, with the methods compiled when the first of them is called.

The standard decorator compiles up to six methods when a module is imported. Of some 300 classes here most are never
made in one process, and that was half of the time that a command took to start. What is compiled is the standard
library's; the class is a dataclass to all (`fields`, `replace`, `asdict`, `match`, `copy`, `pickle`, `msgspec`), and to
type checkers this is the standard decorator. Options: `frozen`, `eq` and `slots`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["dataclass"]

_T = TypeVar("_T")

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls=None, /, *, frozen=False, eq=True, slots=False):
        if cls is None:
            return lambda cls: _made(cls, frozen, eq, slots)
        return _made(cls, frozen, eq, slots)


def _made(cls: type[_T], frozen: bool, eq: bool, slots: bool) -> Any:
    written = dict(cls.__dict__)  # what the class says itself is not replaced
    if not cls.__doc__:
        cls.__doc__ = cls.__name__  # else the standard library would make one of the signature, at once
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
    says_hash = "__hash__" in written and not (written["__hash__"] is None and "__eq__" in written)
    wanted = {"__init__": True, "__repr__": True, "__eq__": eq, "__hash__": eq and frozen and not says_hash}
    own = [name for name, is_wanted in wanted.items() if is_wanted]
    late = [name for name in own if name == "__hash__" or name not in written]

    def complete() -> None:
        for name, method in _methods(made, late, frozen, eq).items():
            setattr(made, name, method)

    for name in late:
        setattr(made, name, _first_call(made, name, complete))
    if eq and not frozen and not says_hash:
        made.__hash__ = None
    made.__signature__ = _Signature(made, complete)
    if frozen:
        _freeze(made)
        if slots:
            made.__getstate__ = written.get("__getstate__", _state)
            made.__setstate__ = written.get("__setstate__", _set_state)
    return made


def _methods(made: Any, names: Iterable[str], frozen: bool, eq: bool) -> dict[str, Any]:
    """The standard library's methods, from a class that has the same fields and nothing else."""
    namespace = {"__qualname__": made.__qualname__}
    if hasattr(made, "__post_init__"):
        namespace["__post_init__"] = made.__post_init__
    fields = [(field.name, field.type, field) for field in dataclasses.fields(made)]
    twin = dataclasses.make_dataclass(made.__name__, fields, namespace=namespace, frozen=frozen, eq=eq)
    return {name: twin.__dict__[name] for name in names}


def _first_call(made: type, name: str, complete: Callable[[], None]) -> Callable[..., Any]:
    def method(self: object, *args: Any, **kwargs: Any) -> Any:
        complete()
        return made.__dict__[name](self, *args, **kwargs)

    method.__name__, method.__qualname__ = name, f"{made.__qualname__}.{name}"
    return method


class _Signature:
    """What `help` and `inspect` show of the class, and of those derived from it without an `__init__`."""

    def __init__(self, made: Any, complete: Callable[[], None]) -> None:
        self._made = made
        self._complete = complete

    def __get__(self, instance: object, owner: Any) -> inspect.Signature:
        if owner.__init__ is not self._made.__init__:
            raise AttributeError("__signature__")
        self._complete()
        signature = inspect.signature(owner.__init__)
        return signature.replace(parameters=tuple(signature.parameters.values())[1:])


def _freeze(made: Any) -> None:
    def refuse(self: object, name: str, change: str) -> None:
        if type(self) is made or name in made.__dataclass_fields__:
            raise dataclasses.FrozenInstanceError(f"cannot {change} field {name!r}")

    def set_attribute(self: object, name: str, value: object) -> None:
        refuse(self, name, "assign to")
        super(made, self).__setattr__(name, value)

    def delete_attribute(self: object, name: str) -> None:
        refuse(self, name, "delete")
        super(made, self).__delattr__(name)

    made.__setattr__, made.__delattr__ = set_attribute, delete_attribute


def _state(self: Any) -> list[Any]:
    """For `copy` and `pickle`, which could not set the attributes of a frozen instance."""
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)
