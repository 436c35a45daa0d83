"""Supervised classifiers of MONAI: what our networks are compared with."""
