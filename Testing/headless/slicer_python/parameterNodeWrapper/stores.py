"""How typed values lie in the string parameters of a vtkMRMLScriptedModuleNode."""

from __future__ import annotations

import collections.abc
import enum
import typing

import slicer

from .annotations import IsInstance, NotNone, Validator, splitAnnotations


class Store:
    """One parameter as one string."""

    def __init__(self, encode, decode, default, validators=()):
        self.encode, self.decode, self.default = encode, decode, default
        self.validators = list(validators)

    def validate(self, value):
        for validator in self.validators:
            validator.validate(value)

    def isIn(self, node, name):
        return node.HasParameter(name)

    def write(self, node, name, value):
        self.validate(value)
        node.SetParameter(name, self.encode(value))

    def read(self, node, name):
        return self.decode(node.GetParameter(name))

    def remove(self, node, name):
        node.UnsetParameter(name)


class NodeStore(Store):
    """A node reference, and an empty parameter of the same name that says it was set."""

    def write(self, node, name, value):
        self.validate(value)
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node, name):
        return node.GetNodeReference(name)

    def remove(self, node, name):
        node.UnsetParameter(name)
        node.RemoveNodeReferenceIDs(name)


class PairStore(Store):
    """name.0, name.1, ..."""

    def __init__(self, stores):
        super().__init__(None, None, lambda: tuple(s.default() for s in stores))
        self.stores = stores

    def isIn(self, node, name):
        return self.stores[0].isIn(node, f"{name}.0")

    def write(self, node, name, value):
        with slicer.util.NodeModify(node):
            for index, (store, part) in enumerate(zip(self.stores, value, strict=True)):
                store.write(node, f"{name}.{index}", part)

    def read(self, node, name):
        return tuple(store.read(node, f"{name}.{i}") for i, store in enumerate(self.stores))

    def remove(self, node, name):
        for index, store in enumerate(self.stores):
            store.remove(node, f"{name}.{index}")


class ListStore(Store):
    """name.0, name.1, ..., name.len"""

    def __init__(self, element):
        super().__init__(None, None, list)
        self.element = element

    def _length(self, node, name):
        return int(node.GetParameter(f"{name}.len")) if self.isIn(node, name) else 0

    def isIn(self, node, name):
        return node.HasParameter(f"{name}.len")

    def write(self, node, name, value):
        before = list(self.readPlain(node, name)) if self.isIn(node, name) else None
        values = list(value)
        try:
            self._replace(node, name, values)
        except Exception:
            self.remove(node, name)
            if before is not None:
                self._replace(node, name, before)
            raise

    def _replace(self, node, name, values):
        with slicer.util.NodeModify(node):
            for index, value in enumerate(values):
                self.element.write(node, f"{name}.{index}", value)
            for index in range(len(values), self._length(node, name)):
                self.element.remove(node, f"{name}.{index}")
            node.SetParameter(f"{name}.len", str(len(values)))

    def readPlain(self, node, name):
        count = self._length(node, name)
        return [self.element.read(node, f"{name}.{index}") for index in range(count)]

    def read(self, node, name):
        return ObservedList(self.readPlain(node, name), lambda v: self.write(node, name, v))

    def remove(self, node, name):
        with slicer.util.NodeModify(node):
            for index in range(self._length(node, name)):
                self.element.remove(node, f"{name}.{index}")
            node.UnsetParameter(f"{name}.len")


class DictStore(ListStore):
    """A list of pairs: name.0.0 is a key, name.0.1 its value."""

    def __init__(self, key, value):
        super().__init__(PairStore([key, value]))
        self.default = dict

    def write(self, node, name, value):
        super().write(node, name, value.items())

    def read(self, node, name):
        return ObservedDict(dict(self.readPlain(node, name)), lambda v: self.write(node, name, v))


class _Observed:
    """A container that writes itself back after each change."""

    def __init__(self, values, save):
        self._values, self._save = values, save

    def __repr__(self):
        return f"{type(self).__name__}({self._values})"

    def __eq__(self, other):
        return self._values == (other._values if isinstance(other, _Observed) else other)

    __hash__ = None

    def __len__(self):
        return len(self._values)

    def __getitem__(self, key):
        return self._values[key]

    def __setitem__(self, key, value):
        self._values[key] = value
        self._save(self._values)

    def __delitem__(self, key):
        del self._values[key]
        self._save(self._values)


class ObservedList(_Observed, collections.abc.MutableSequence):
    """A list; `+` and `*` are refused, as in Slicer."""

    def insert(self, index, value):
        self._values.insert(index, value)
        self._save(self._values)

    def _refuse(self, other):
        raise NotImplementedError("an ObservedList takes += and *= but neither + nor *")

    __add__ = __radd__ = __mul__ = __rmul__ = _refuse


class ObservedDict(_Observed, collections.abc.MutableMapping):
    """A dict; `get` and `pop` take no default, as in Slicer."""

    def __iter__(self):
        return iter(self._values)

    def get(self, key):
        return self._values.get(key)

    def pop(self, key):
        value = self._values.pop(key)
        self._save(self._values)
        return value


def _plain(kind) -> Store | None:
    """The store of a type that is one string."""
    given = [NotNone(), IsInstance((int, float) if kind is float else kind)]
    if kind is bool:
        return Store(lambda v: "True" if v else "False", lambda t: t == "True", bool, given)
    if kind in (int, float):
        return Store(str, kind, lambda: 0, given)
    if kind is str:
        return Store(str, str, str, given)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return Store(
            lambda v: v.name, lambda t: kind[t], lambda: next(iter(kind)), [IsInstance(kind)]
        )
    if isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode):
        return NodeStore(None, None, lambda: None, [IsInstance(kind)])
    return None


def makeStore(kind) -> tuple[Store, list]:
    """The store of a type and those annotations that are no validators."""
    bare, annotations = splitAnnotations(kind)
    origin, parts = typing.get_origin(bare), typing.get_args(bare)
    store = _plain(bare)
    if origin is list:
        store = ListStore(makeStore(parts[0])[0])
    elif origin is dict:
        store = DictStore(*(makeStore(part)[0] for part in parts))
    if store is None:
        raise Exception(f"Unable to create serializer for type: {bare}")
    store.validators += [a for a in annotations if isinstance(a, Validator)]
    return store, [a for a in annotations if not isinstance(a, Validator)]
