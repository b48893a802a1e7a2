"""Networks as transformers models. Every `*_rnn.py` file here is copied into saved models."""

import transformers  # noqa: F401 - first: importing it registers the models, which imports the modules of this room
