"""Settings of a training: each declared once, and built from flags, recipes and keywords."""
