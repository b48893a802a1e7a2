"""The kernel in C, compiled by `python -m hf_rnn.inference.native` where an install did not, and its interface."""
