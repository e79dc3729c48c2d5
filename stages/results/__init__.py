"""What stages publish for others to read, typed."""
