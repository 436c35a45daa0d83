"""The Slicer side: MRML to requests, answers to nodes, panels. No torch here."""
