"""A page that runs a model in the browser."""

from .page import write_web

__all__ = ["write_web"]
