"""Nodules as tensors, who trains and tests, labels, augmentation, a source's concepts."""
