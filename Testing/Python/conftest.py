"""What holds for all tests."""


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their argument.

    A gzip holds the time, and pytest-xdist wants the same names from every process.
    """
    return argname if isinstance(val, bytes) else None
