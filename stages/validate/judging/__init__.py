"""Answers compared, limits checked, the gate of a whole run."""
