"""Comes along with a package that only tests need: users do not have it (engine/users.py)."""

raise ImportError("hidden from the engine that tests start: users do not have it")
