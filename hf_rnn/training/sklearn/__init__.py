"""The scikit-learn estimator."""

from importlib.util import find_spec

from ...utils.errors import UserError

if find_spec("sklearn") is None:
    raise UserError("RnnClassifier needs scikit-learn: pip install 'hf-rnn[sklearn]'")

from .classifier import RnnClassifier  # noqa: E402 - needs scikit-learn

__all__ = ["RnnClassifier"]
