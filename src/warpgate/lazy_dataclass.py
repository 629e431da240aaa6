"""`dataclass` of the standard library, with the methods compiled when the first of them is called.

The standard decorator compiles up to six methods when a module is imported. Of some 300 classes here most are never
made in one process, and that was half of the time that a command took to start. The class is a dataclass to all
(`fields`, `replace`, `asdict`, `match`, `copy`, `pickle`, `msgspec`), and to type checkers this is the standard
decorator. Options: `frozen`, `eq` and `slots`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import MISSING
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
    late = {"__init__", "__repr__", "__eq__"} - written.keys() - (set() if eq else {"__eq__"})
    if "__hash__" not in written or (written["__hash__"] is None and "__eq__" in written):
        if eq and frozen:
            late.add("__hash__")
        elif eq:
            made.__hash__ = None
    for name in late:
        setattr(made, name, _first_call(made, name, frozen))
    if "__init__" in late:
        made.__signature__ = _Signature(made)
    if frozen:
        _freeze(made)
        if slots:
            made.__getstate__ = written.get("__getstate__", _state)
            made.__setstate__ = written.get("__setstate__", _set_state)
    return made


def _compiled(made: Any, name: str, frozen: bool) -> Any:
    return _constructor(made, frozen) if name == "__init__" else _standard(made, name)


def _constructor(made: Any, frozen: bool) -> Any:
    """As the standard library's, which compiles two more methods along with that of a frozen class."""
    scope: dict[str, Any] = {"_set": object.__setattr__, "_LATER": object()}
    parameters, by_name, body = ["self"], ["*"], []
    for field in dataclasses.fields(made):
        parameter = value = name = field.name
        if field.default_factory is not MISSING:
            scope[f"_make_{name}"] = field.default_factory
            parameter, value = f"{name}=_LATER", f"_make_{name}()"
            if field.init:
                value = f"{value} if {name} is _LATER else {name}"
        elif field.default is not MISSING:
            scope[f"_default_{name}"] = field.default
            parameter = f"{name}=_default_{name}"
            value = name if field.init else f"_default_{name}"
        elif not field.init:
            continue
        if field.init:
            (by_name if field.kw_only else parameters).append(parameter)
        body.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(made, "__post_init__"):
        body.append("self.__post_init__()")
    if len(by_name) > 1:
        parameters += by_name
    exec(f"def __init__({', '.join(parameters)}):\n {'; '.join(body) or 'pass'}", scope)
    init = scope["__init__"]
    init.__qualname__ = f"{made.__qualname__}.__init__"
    init.__module__ = made.__module__
    return init


def _standard(made: Any, name: str) -> Any:
    """The standard library's method of this name, from a class that has the same fields and nothing else."""
    fields = [(field.name, field.type, field) for field in dataclasses.fields(made)]
    twin = dataclasses.make_dataclass(
        made.__name__,
        fields,
        namespace={"__qualname__": made.__qualname__, "__doc__": made.__doc__},
        init=name == "__init__",
        repr=name == "__repr__",
        eq=name == "__eq__",
        unsafe_hash=name == "__hash__",
    )
    return twin.__dict__[name]


def _first_call(made: Any, name: str, frozen: bool) -> Callable[..., Any]:
    def method(self: object, *args: Any, **kwargs: Any) -> Any:
        compiled = _compiled(made, name, frozen)
        setattr(made, name, compiled)
        return compiled(self, *args, **kwargs)

    method.__name__, method.__qualname__ = name, f"{made.__qualname__}.{name}"
    return method


class _Signature:
    """What `help` and `inspect` show of the class, and of those derived from it without an `__init__`."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def __get__(self, instance: object, owner: Any) -> inspect.Signature:
        if owner.__init__ is not self._made.__init__:
            raise AttributeError("__signature__")
        signature = inspect.signature(_standard(self._made, "__init__"))
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
