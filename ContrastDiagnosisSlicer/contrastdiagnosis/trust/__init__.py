"""How far an answer can be trusted: what is measured at a point, and the rule for confident."""
