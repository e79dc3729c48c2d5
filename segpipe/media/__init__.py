"""Images, and the containers of videos, in and out."""

MAX_MEGAPIXELS = 256
"""Larger images are refused before they are decoded, unless another limit is given."""

RASTERS = frozenset({".tif", ".tiff", ".svs"})
"""Suffixes of what can be read by windows: GeoTIFF, and the pyramids that scanners of slides write."""
