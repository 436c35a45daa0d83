"""From a volume and a point to a diagnosis."""
