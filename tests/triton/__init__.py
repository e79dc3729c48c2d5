"""The model repository under a real tritonserver, on the CPU: `make triton`."""
