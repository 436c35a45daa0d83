"""Nodules as tensors, who trains and tests, labels, augmentation, LIDC's concepts."""
