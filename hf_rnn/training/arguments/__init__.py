"""Settings: every one declared once, with its help, and the one way from flags, YAML and keywords to typed arguments.

Nothing is handed on here, so that a verb with few settings does not load the Trainer's.
"""
