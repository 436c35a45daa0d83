"""What makes a CT poor: dose, slices, kernel, motion, artefacts; the door is `degrade.py`."""
