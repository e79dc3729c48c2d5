"""From what a person names to masks in a folder: what is meant, what is done, what is made."""

MAX_MEGAPIXELS = 256
"""Larger images are refused before they are decoded, unless another limit is given."""
