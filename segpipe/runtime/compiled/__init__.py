"""Frames' and masks' pixels by compiled code where that was built and gives numpy's bits; numpy does it elsewhere."""
