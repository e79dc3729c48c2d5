"""The page that segments in a browser: with the end-to-end graph inside it, or by the server that it came from."""
