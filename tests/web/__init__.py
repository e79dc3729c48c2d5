"""`make web`: the page in a real Chromium, its masks beside the segmenter's. Needs npm packages, so it is no test."""
