"""Images, videos and raw streams, in and out."""
