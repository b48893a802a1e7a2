"""Fit the last layer alone, by logistic regression on the frozen encoder: better than training from few rows."""

from __future__ import annotations

import logging
import time
from typing import Any

import datasets
import numpy as np
import torch
from safetensors.torch import load_file

from ..hub.loading import find_folder
from .run import Run
from .trainer import SAMPLE_WEIGHT, read_labels, weigh_classes

logger = logging.getLogger(__name__)

_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)  # C of the regression, for features of length 1 in the mean
_USUAL_STRENGTH = 3.0
_FOLDS = 3


def has_few_rows(run: Run) -> bool:
    """Return whether `few_rows` applies: one label per text, a start, and at most this number of rows per class."""
    few, counts = run.arguments.training.few_rows, run.class_counts
    if not few or run.arguments.data.model_name_or_path is None or counts is None or not run.task.one_label:
        return False
    return run.table is not None and sum(counts) <= few * len(counts) and min(counts) > 0


def fit_linear_head(run: Run) -> dict[str, Any]:
    """Fit the last layer of a classifier on frozen features of the training rows; return the numbers of a training.

    The strength of the regularisation is chosen by cross-validation, where each class has two rows or more. Classes
    are weighted as in training. With pooling mean_max the regression reads the mean: maxima are noisier. An encoder
    of `hf-rnn pretrain` maps the mean to its teacher's space, where few rows suffice; the layer takes that map in.
    """
    start = time.monotonic()
    train_rows = run.examples["train"]
    logger.info(
        "few_rows: %d rows are at most %d per class, so the encoder stays as it is and logistic regression fits the "
        "last layer; few_rows 0 trains all",
        len(train_rows),
        run.arguments.training.few_rows,
    )
    right = _fit(run, train_rows)
    loss = float(-np.log(right + 1e-12).mean())
    return {"epochs": 0.0, "steps": 0, "seconds": round(time.monotonic() - start, 1), "loss": loss}


def fit_held_out_too(run: Run) -> None:
    """Fit the last layer again, with the rows of train that were held out for the scores."""
    train_rows, held_out = run.examples["train"], run.examples["validation"]
    logger.info("few_rows: after its scores, the last layer learns from the %d rows held out too", len(held_out))
    if SAMPLE_WEIGHT in train_rows.column_names:
        held_out = held_out.add_column(SAMPLE_WEIGHT, np.ones(len(held_out)))
    _fit(run, datasets.concatenate_datasets([train_rows, held_out.cast(train_rows.features)]))


def _fit(run: Run, rows: datasets.Dataset) -> np.ndarray:
    """Set the last layer from rows; return the probability of the true class of each."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    features = _read_features(run, rows)
    projection = _read_projection(str(run.arguments.data.model_name_or_path), features.shape[1])
    features = features @ projection.T
    labels = read_labels(rows).numpy()
    scale = float(np.sqrt((features**2).sum(axis=1).mean())) or 1.0
    power = run.arguments.training.class_weight_power
    class_weight = dict(enumerate(weigh_classes([int(count) for count in run.class_counts or ()], power).tolist()))
    folds = min(_FOLDS, int(np.bincount(labels)[np.unique(labels)].min()))
    weights = np.asarray(rows[SAMPLE_WEIGHT][:]) if SAMPLE_WEIGHT in rows.column_names else None
    model: Any = LogisticRegression(C=_USUAL_STRENGTH, class_weight=class_weight, max_iter=1000)
    if folds > 1:
        search = GridSearchCV(model, {"C": _STRENGTHS}, scoring="neg_log_loss", cv=folds)
        model = search.fit(features / scale, labels, sample_weight=weights).best_estimator_
    model.fit(features / scale, labels, sample_weight=weights)
    weight, bias = model.coef_ @ projection / scale, model.intercept_
    if len(weight) == 1:  # two classes: one logit becomes two of opposite signs
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    layer: Any = run.model.classifier
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, : weight.shape[1]] = torch.from_numpy(weight)
        layer.bias.copy_(torch.from_numpy(bias))
    return model.predict_proba(features / scale)[np.arange(len(labels)), labels]


def _read_features(run: Run, rows: datasets.Dataset) -> np.ndarray:
    """Return the inputs of the last layer for rows, of mean_max those of the mean, `(N, P)`."""
    layer: Any = run.model.classifier
    # in place of the logits, which the trainer returns in the order of the rows
    hook = layer.register_forward_hook(lambda _, inputs, __: inputs[0].float())
    unread = [name for name in ("labels", SAMPLE_WEIGHT) if name in rows.column_names]
    try:
        pooled = run.trainer.predict(rows.remove_columns(unread)).predictions
    finally:
        hook.remove()
    return pooled[:, : pooled.shape[1] // 2] if run.model.config.pooling == "mean_max" else pooled


def _read_projection(start: str, size: int) -> np.ndarray:
    """Return the map `(S, size)` of an encoder's mean states to its teacher's space; the identity without one."""
    path = find_folder(start) / "2_Dense" / "model.safetensors"
    if not path.is_file():
        return np.eye(size, dtype=np.float32)
    weight = load_file(path)["linear.weight"].float().numpy()
    return weight if weight.shape[1] == size else np.eye(size, dtype=np.float32)
