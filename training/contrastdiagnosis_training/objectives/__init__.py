"""Losses that are minimised and metrics that are reported."""
