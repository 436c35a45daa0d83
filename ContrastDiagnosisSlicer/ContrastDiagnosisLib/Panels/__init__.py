"""The panels: what the user sees and presses."""
