"""Networks as transformers models; every file here travels with a checkpoint."""
