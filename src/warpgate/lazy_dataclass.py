"""`dataclass` of the standard library, with the methods compiled when the first of them is called.

The standard decorator compiles up to six methods when a module is imported. Of some 300 classes here most are never
made in one process, and that was half of the time that a command took to start. The class is a dataclass to all
(`fields`, `replace`, `asdict`, `match`, `copy`, `pickle`, `msgspec`), and to type checkers this is the standard
decorator. Options: `frozen`, `eq` and `slots`.
"""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import MISSING
from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["dataclass"]

_T = TypeVar("_T")
# What a frozen class refuses, in the words of its error.
_CHANGES = {"__setattr__": "assign to", "__delattr__": "delete"}

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
    if "__init__" in late:
        made.__signature__ = _Signature(made)
    if frozen:
        late |= _CHANGES.keys()
        if slots:
            made.__getstate__ = written.get("__getstate__", _state)
            made.__setstate__ = written.get("__setstate__", _set_state)
    for name in late:
        setattr(made, name, _Late(made, name, frozen))
    return made


class _Late:
    """In a method's place until it is first looked up. It is small: an idle node has a thousand of them."""

    __slots__ = ("_frozen", "_made", "_name")

    def __init__(self, made: Any, name: str, frozen: bool) -> None:
        self._made, self._name, self._frozen = made, name, frozen

    def __get__(self, instance: object, owner: Any) -> Any:
        if self._name in _CHANGES:
            method = _refusal(self._made, self._name)
        elif self._name == "__init__":
            method = _constructor(self._made, self._frozen)
        else:
            method = _standard(self._made, self._name)
        setattr(self._made, self._name, method)
        return method.__get__(instance, owner)


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


class _Signature:
    """What `help` and `inspect` show of the class, and of those derived from it without an `__init__`."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def __get__(self, instance: object, owner: Any) -> inspect.Signature:
        if owner.__init__ is not self._made.__init__:
            raise AttributeError("__signature__")
        signature = inspect.signature(_standard(self._made, "__init__"))
        return signature.replace(parameters=tuple(signature.parameters.values())[1:])


def _refusal(made: Any, method: str) -> Any:
    """A frozen class's `__setattr__` or `__delattr__`."""

    def refuse(self: object, name: str, *value: object) -> None:
        if type(self) is made or name in made.__dataclass_fields__:
            raise dataclasses.FrozenInstanceError(f"cannot {_CHANGES[method]} field {name!r}")
        getattr(super(made, self), method)(name, *value)

    return refuse


def _state(self: Any) -> list[Any]:
    """For `copy` and `pickle`, which could not set the attributes of a frozen instance."""
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)
