"""The runtime: frames in, masks out."""
