"""Networks as transformers models. Every `*_rnn.py` file here is copied into saved models."""
