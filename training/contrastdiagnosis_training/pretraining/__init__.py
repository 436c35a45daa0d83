"""Pre-training of the encoder by contrast between images of different quality and tissue.

CoMCL, arXiv:2404.04887.
"""
