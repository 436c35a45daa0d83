"""The concept head's training on a frozen network."""
