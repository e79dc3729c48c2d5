"""The steps of the GPU suite; each has `run(work) -> figures` and raises when something does not hold."""
