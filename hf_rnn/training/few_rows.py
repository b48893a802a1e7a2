"""Fit the last layer alone, by logistic regression on the frozen encoder: better than training from few rows."""

from __future__ import annotations

import logging
import time
from typing import Any

import datasets
import numpy as np
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..hub.model_folder import find_folder
from .run import Run
from .trainer import SAMPLE_WEIGHT, weigh_classes

logger = logging.getLogger(__name__)

METHOD = "logistic regression"  # in metrics.json and in the card
# Settings that need steps; those of the user are named in a warning.
WITHOUT_EFFECT = (
    "num_train_epochs", "learning_rate", "head_learning_rate", "embedding_learning_rate", "max_minutes", "max_steps",
    "optim", "lr_scheduler_type", "warmup_steps", "weight_decay", "per_device_train_batch_size", "row_budget",
    "label_smoothing_factor", "word_dropout", "embedding_dropout", "hidden_dropout", "classifier_dropout",
    "early_stopping_patience", "metric_for_best_model",
)  # fmt: skip
_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)  # C of the regression, for features of length 1 in the mean
_USUAL_STRENGTH = 3.0
_FOLDS = 3
_BATCH = 32


def fit_last_layer(
    run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: datasets.Dataset
) -> dict[str, Any]:
    """Fit the last layer of a classifier on frozen features of rows; return the numbers of a training.

    The strength of the regularisation is chosen by cross-validation, where each class has two rows or more. Classes
    are weighted as in training. With pooling mean_max the regression reads the mean: maxima are noisier. An encoder
    of `hf-rnn pretrain` maps the mean to its teacher's space, where few rows suffice; the layer takes that map in.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    start, labels = time.monotonic(), np.asarray(rows["labels"][:])
    features = _read_features(model, tokenizer, rows)
    projection = _read_projection(str(run.arguments.data.model_name_or_path), features.shape[1])
    features = features @ projection.T
    scale = float(np.sqrt((features**2).sum(axis=1).mean())) or 1.0
    weights = np.asarray(rows[SAMPLE_WEIGHT][:]) if SAMPLE_WEIGHT in rows.column_names else None
    counts = np.bincount(labels, weights, model.config.num_labels).tolist()
    class_weight = dict(enumerate(weigh_classes(counts, run.arguments.training.class_weight_power).tolist()))
    folds = min(_FOLDS, int(np.bincount(labels)[np.unique(labels)].min()))
    fitted: Any = LogisticRegression(C=_USUAL_STRENGTH, class_weight=class_weight, max_iter=1000)
    if folds > 1:
        search = GridSearchCV(fitted, {"C": _STRENGTHS}, scoring="neg_log_loss", cv=folds)
        fitted = search.fit(features / scale, labels, sample_weight=weights).best_estimator_
    fitted.fit(features / scale, labels, sample_weight=weights)
    weight, bias = fitted.coef_ @ projection / scale, fitted.intercept_
    if len(weight) == 1:  # two classes: one logit becomes two of opposite signs
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    layer: Any = model.classifier
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, : weight.shape[1]] = torch.from_numpy(weight)
        layer.bias.copy_(torch.from_numpy(bias))
    right = fitted.predict_proba(features / scale)[np.arange(len(labels)), labels]
    loss, seconds = float(-np.log(right + 1e-12).mean()), round(time.monotonic() - start, 1)
    return {"method": METHOD, "epochs": 0.0, "steps": 0, "seconds": seconds, "loss": loss}


def join_rows(rows: datasets.Dataset, held_out: datasets.Dataset) -> datasets.Dataset:
    """Return the training rows with those that were held out for the scores."""
    if SAMPLE_WEIGHT in rows.column_names:
        held_out = held_out.add_column(SAMPLE_WEIGHT, np.ones(len(held_out)))
    return datasets.concatenate_datasets([rows, held_out.cast(rows.features)])


@torch.inference_mode()
def _read_features(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: datasets.Dataset) -> np.ndarray:
    """Return the inputs of the last layer for rows, of mean_max those of the mean, `(N, P)`."""
    texts, read = rows["input_ids"][:], []
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    hook = model.classifier.register_forward_hook(lambda _, inputs, __: read.append(inputs[0].float().cpu()))
    try:
        for start in range(0, len(order), _BATCH):
            batch = [{"input_ids": texts[row]} for row in order[start : start + _BATCH]]
            model.eval()(**tokenizer.pad(batch, return_tensors="pt").to(model.device))
    finally:
        hook.remove()
    pooled = torch.cat(read).numpy()[np.argsort(order)]
    return pooled[:, : pooled.shape[1] // 2] if model.config.pooling == "mean_max" else pooled


def _read_projection(start: str, size: int) -> np.ndarray:
    """Return the map `(S, size)` of an encoder's mean states to its teacher's space; the identity without one."""
    path = find_folder(start) / "2_Dense" / "model.safetensors"
    if not path.is_file():
        return np.eye(size, dtype=np.float32)
    weight = load_file(path)["linear.weight"].float().numpy()
    return weight if weight.shape[1] == size else np.eye(size, dtype=np.float32)
