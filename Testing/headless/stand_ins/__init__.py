"""Stand-ins for what the Slicer application offers to Python."""
