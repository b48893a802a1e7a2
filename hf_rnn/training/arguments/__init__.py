"""Settings of a training: each declared once, and built from flags, recipes and keywords.

Nothing is imported here: a command with few settings loads no Trainer.
"""
