"""A run on disk: its manifest, its steps, what is fresh, and the words for what is damaged."""
