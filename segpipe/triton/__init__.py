"""Triton Inference Server: a model repository of a run, and what the server's Python backend runs of it."""
