"""torchvision's Mask R-CNN as a static graph: its own modules and weights, with shapes that no frame changes."""
