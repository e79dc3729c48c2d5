"""One command that proves the GPU path on any NVIDIA machine: `make gpu`."""
