"""Train a model and save a finished folder."""
