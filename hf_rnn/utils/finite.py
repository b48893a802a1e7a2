"""Check numbers of a model before they become answers or scores."""

import numpy as np
import numpy.typing as npt

from .errors import UserError


def check_finite_logits(logits: npt.ArrayLike) -> None:
    """Raise UserError for logits `(N, C)` that are NaN or infinite."""
    finite = np.isfinite(np.asarray(logits)).all(axis=-1)
    if not finite.all():
        advice = "did the training diverge? Train again with a lower learning_rate, or with max_grad_norm 1"
        raise UserError(f"{np.count_nonzero(~finite)} of {len(finite)} rows have logits that are not finite: {advice}")
