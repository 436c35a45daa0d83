"""What concepts and their corrections are worth."""
