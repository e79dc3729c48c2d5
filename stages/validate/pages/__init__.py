"""The gate's report as pages and pictures."""
