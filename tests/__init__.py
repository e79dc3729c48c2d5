"""Tests mirror both halves of the project."""
