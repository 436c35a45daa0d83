"""Documents that people bring, and results that are written whole or not at all."""
