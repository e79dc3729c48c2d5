"""The steps of the GPU suite; each has `run(folders) -> figures` and raises when something does not hold."""
