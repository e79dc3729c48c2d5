"""What `segpipe serve` costs and holds.

    python -m benchmarks.serving [overhead overload swap memory drain shadow openapi batches]

The tiny network of segpipe.testing, so that what is measured is the service. Each part ends in a verdict, and in its
section of benchmarks/results/serving.md.
"""
