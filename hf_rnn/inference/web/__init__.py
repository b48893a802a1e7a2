"""A model in a web page and in Node: plain JavaScript, or transformers.js."""

from .page import build_page, write_web

__all__ = ["build_page", "write_web"]
