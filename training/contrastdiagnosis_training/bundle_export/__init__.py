"""From runs to the parts of a bundle."""
