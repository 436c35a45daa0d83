"""How far answers hold where the image is poor: degraded nodules, figures, curves."""
