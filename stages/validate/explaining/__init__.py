"""Where two networks part, and what is the likely cause."""
