"""Exporters of other people: each script makes its file and its own masks with its own package alone, without segpipe.

In an environment of the exporter's own, from a clone: `python -m benchmarks.exporters.NAME FRAMES.npy FOLDER`; then
`python -m benchmarks.presets` compares.
"""
