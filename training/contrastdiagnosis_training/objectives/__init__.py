"""Losses that are minimised and figures that are reported."""
