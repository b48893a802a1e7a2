"""The scikit-learn estimators."""

from importlib.util import find_spec

from ...utils.errors import UserError, install_hint

if find_spec("sklearn") is None:
    raise UserError(f"RnnClassifier and RnnRegressor need scikit-learn: {install_hint('sklearn')}")

from .estimator import RnnClassifier, RnnRegressor  # noqa: E402 - they need scikit-learn

__all__ = ["RnnClassifier", "RnnRegressor"]
