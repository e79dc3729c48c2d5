"""ONNX graphs as data: reading foreign ones, halving, rounding, ranges. Knows no stage, no run directory, no torch."""
