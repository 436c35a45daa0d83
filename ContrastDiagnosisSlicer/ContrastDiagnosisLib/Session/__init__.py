"""From points to diagnoses in the scene, and from these to reports."""
