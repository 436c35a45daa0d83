"""What may stand in an Annotated[type, ...] of a parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, get_args


class Validator:
    """Raises if a value is not wanted."""

    def validate(self, value) -> None:
        raise NotImplementedError


@dataclass
class IsInstance(Validator):
    kind: Any

    def validate(self, value):
        if value is not None and not isinstance(value, self.kind):
            raise TypeError(f"Value must be of type {self.kind}, is {type(value)}: {value!r}")


class NotNone(Validator):
    def validate(self, value):
        if value is None:
            raise ValueError("Value must not be None")


@dataclass
class WithinRange(Validator):
    minimum: float
    maximum: float

    def validate(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be in [{self.minimum}, {self.maximum}], is {value}")


class Default:
    """The value of a parameter that was never set; a generator makes it anew each time."""

    def __init__(self, value=None, *, generator=None):
        self._value, self._generator = value, generator

    @property
    def value(self):
        return self._generator() if self._generator else self._value


def splitAnnotations(kind) -> tuple[Any, list]:
    """The bare type and its annotations."""
    bare, *annotations = get_args(Annotated[kind, None])
    return bare, annotations[:-1]


def findFirstAnnotation(annotations, kind):
    return next((a for a in annotations if isinstance(a, kind)), None)
