"""CTs and what is measured on them: reading files, the volume, the patch, masks, the phantom."""
