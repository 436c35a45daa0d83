"""What panel and server say to each other, and files that both read: NumPy and Python alone.

Slicer imports this room too, without torch or anything else that the engine needs.
"""
