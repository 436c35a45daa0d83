"""MRML: volumes, points, results and corrections as nodes, and the views that show them."""
