"""CUDA: every call into it lives in this package, behind one Device interface with two providers."""
