"""`make web`: pages in a real Chromium, masks of one beside the segmenter's. Needs npm packages, so it is no test."""
