"""Write complete checkpoints and resume from them."""
