"""What maps are worth."""
