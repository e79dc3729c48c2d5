"""Comparing masks and tensors, and timing: numpy only."""
