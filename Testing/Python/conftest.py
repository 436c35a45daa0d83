"""What holds for all tests."""

import pytest


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their argument.

    A gzip holds the time, and pytest-xdist wants the same names from every process.
    """
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The packages whose files take minutes come first, so that no process is left with one."""
    items.sort(key=lambda item: item.path.parent.name != "training")
