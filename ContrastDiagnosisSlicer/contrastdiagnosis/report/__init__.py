"""What is said of a diagnosis: words and numbers, the report for screen and paper, pictures."""
