"""Train tokenizers and build their normalizers."""

NO_LENGTH_LIMIT = 10**30  # a tokenizer's `model_max_length` if texts have any length
