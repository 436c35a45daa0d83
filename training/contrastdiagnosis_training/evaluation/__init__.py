"""What a network, its vote and its confidence are worth on patients it never saw."""
