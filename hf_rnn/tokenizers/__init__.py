"""Train tokenizers and build their normalizers."""
