"""Concepts: the prototypes, what they see in a nodule, and the corrections of a clinician."""
