"""What answers an image: PyTorch, graphs, engines, the stored reference."""
