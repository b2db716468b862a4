"""Training objectives: one paper a file."""
