"""Coverage-guided fuzzing of what reads strangers' bytes: the bodies of clients, and whatever engines answer."""
