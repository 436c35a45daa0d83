"""The network's training: recipe, objective, trainer."""
