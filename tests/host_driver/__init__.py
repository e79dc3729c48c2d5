"""The GPU path on a CUDA driver of host memory. `tests/test_host_driver.py` starts the processes these tests run in."""
