"""The bundle: what a diagnosis needs, on disk; its card, its signature, its pruning."""
