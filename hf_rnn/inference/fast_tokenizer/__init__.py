"""Tokenize many texts faster than the tokenizers library, with the same ids."""
