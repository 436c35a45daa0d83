"""Reading CTs from disk: geometry is never guessed, damage never passed over.

`read_scan_image` is the door; a module per kind of file lies behind it. Nothing here knows of
patches, networks or RAS: images come in ITK's own LPS, and `imaging.volume` flips them.
"""
