"""Programs and notebooks to start from; tests/test_examples.py runs them."""
