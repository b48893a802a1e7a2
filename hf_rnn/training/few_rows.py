"""Learn from few rows: draw the texts of a class together, then fit the last layer.

With a few rows per class this is better than training all weights with a last layer that starts at
random.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..hub.model_folder import find_folder
from .prepare import Run
from .rows import EpochRows
from .trainer import SAMPLE_WEIGHT, weigh_classes

logger = logging.getLogger(__name__)

METHOD = "contrast and logistic regression"  # in metrics.json and in the card
# Settings of a training of all weights; a warning names those of the user.
WITHOUT_EFFECT = (
    "num_train_epochs", "learning_rate", "head_learning_rate", "embedding_learning_rate",
    "max_minutes", "max_steps", "optim", "lr_scheduler_type", "warmup_steps", "weight_decay",
    "per_device_train_batch_size", "row_budget", "label_smoothing_factor", "word_dropout",
    "embedding_dropout", "hidden_dropout", "classifier_dropout", "early_stopping_patience",
    "metric_for_best_model",
)  # fmt: skip
# C of the regression, for features of length 1 in the mean
_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
_USUAL_STRENGTH = 3.0
_FOLDS = 3
_BATCH = 32
# The contrast: number of steps, texts per step, learning rate, temperature, mistyped copies.
_STEPS = 30
_TEXTS = 64
_RATE = 3e-4
_TEMPERATURE = 0.1
_VIEWS = 6


def fit_few_rows(
    run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: datasets.Dataset
) -> dict[str, Any]:
    """Fit a classifier to the encoded training rows of a run; return the numbers of a training."""
    start = time.monotonic()
    texts = rows["input_ids"][:]
    labels = np.asarray(rows["labels"][:])
    weights = np.asarray(rows[SAMPLE_WEIGHT][:]) if SAMPLE_WEIGHT in rows.column_names else None
    projection = _read_projection(str(run.settings.data.model_name_or_path), model)
    # a step reads stretches of long texts: 128 whole mails would take 24 GB
    window = 0 if model.config.sep_token_id is not None else run.settings.training.train_window
    typed = EpochRows(run, tokenizer, rows, window)
    views = [[ids[: window or None] for ids in texts]]
    views += [typed.read_epoch(view) for view in range(_VIEWS)]
    draw = random.Random(run.settings.training.seed)
    contrast_classes(model, tokenizer, views, labels, projection, draw)
    features = _read_features(model, tokenizer, texts)
    loss = fit_last_layer(run, model, features, projection, labels, weights)
    seconds = round(time.monotonic() - start, 1)
    return {"method": METHOD, "epochs": 0.0, "steps": _STEPS, "seconds": seconds, "loss": loss}


def contrast_classes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    views: Sequence[Sequence[Sequence[int]]],
    labels: np.ndarray,
    projection: torch.Tensor,
    draw: random.Random,
) -> None:
    """Change the encoder of a classifier so that only texts of one class have similar features.

    Each step reads some texts, clean and mistyped: the more classes, the fewer texts of each. After
    P. Khosla et al.: Supervised Contrastive Learning. arXiv:2004.11362, 2020, equation 2.

    `views` are the token ids of all N texts, first clean, then mistyped in several ways, and
    `labels` class ids `(N)`. `projection` is the map `(S, P)` from features to the space where they
    are compared.
    """
    weights = [weight for weight in model.base_model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=_RATE, weight_decay=0.01)
    model.train()
    for step in range(_STEPS):
        rows = _draw_rows(labels, draw)
        batch = [views[0][row] for row in rows]
        batch += [draw.choice(views[1:])[row] for row in rows]
        vectors = _read_pooled(model, tokenizer, batch) @ projection.T
        loss = contrast_loss(vectors, torch.from_numpy(labels[rows]).repeat(2))
        optimizer.param_groups[0]["lr"] = _RATE * min(1, (step + 1) / 5) * (1 - step / _STEPS)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()


def _draw_rows(labels: np.ndarray, draw: random.Random) -> list[int]:
    """Return the rows of a step, about as many of each of its classes."""
    by_class = [np.flatnonzero(labels == number).tolist() for number in np.unique(labels)]
    classes = draw.sample(by_class, min(len(by_class), _TEXTS // 2))
    rows: list[int] = []
    for members in classes:
        rows += draw.sample(members, min(len(members), _TEXTS // len(classes)))
    return rows


def contrast_loss(vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the supervised contrastive loss of vectors `(N, P)` with class ids `(N)`: a scalar."""
    vectors = normalize(vectors, dim=-1)
    labels = labels.to(vectors.device)
    itself = torch.eye(len(labels), dtype=torch.bool, device=vectors.device)
    similarities = (vectors @ vectors.T / _TEMPERATURE).masked_fill(itself, -torch.inf)
    scores = similarities.log_softmax(dim=-1)
    same = (labels[:, None] == labels) & ~itself
    return -(scores.masked_fill(~same, 0).sum(dim=-1) / same.sum(dim=-1)).mean()


def fit_last_layer(
    run: Run,
    model: PreTrainedModel,
    features: np.ndarray,
    projection: torch.Tensor,
    labels: np.ndarray,
    row_weights: np.ndarray | None,
) -> float:
    """Fit the last layer on features `(N, P)` of rows with class ids `(N)`; return the loss.

    The strength of the regularisation is chosen by cross-validation, where each class has two rows
    or more. Classes are weighted as in training. With pooling mean_max the regression reads the
    mean: maxima are noisier. An encoder of `hf-rnn pretrain` maps the mean to its teacher's space,
    where few rows suffice; the layer takes that map in.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    map_in = projection.cpu().numpy()
    features = features @ map_in.T
    scale = float(np.sqrt((features**2).sum(axis=1).mean())) or 1.0
    features = features / scale
    counts = np.bincount(labels, row_weights, model.config.num_labels).tolist()
    power = run.settings.training.class_weight_power
    class_weight = dict(enumerate(weigh_classes(counts, power).tolist()))
    folds = min(_FOLDS, int(np.bincount(labels)[np.unique(labels)].min()))
    fitted = LogisticRegression(C=_USUAL_STRENGTH, class_weight=class_weight, max_iter=1000)
    if folds > 1:
        search = GridSearchCV(fitted, {"C": _STRENGTHS}, scoring="neg_log_loss", cv=folds)
        fitted = search.fit(features, labels, sample_weight=row_weights).best_estimator_
    fitted.fit(features, labels, sample_weight=row_weights)

    weight = fitted.coef_ @ map_in / scale
    bias = fitted.intercept_
    if len(weight) == 1:  # one logit becomes two of opposite signs
        weight = np.concatenate([-weight, weight]) / 2
        bias = np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.weight[:, : weight.shape[1]] = torch.from_numpy(weight)
        model.classifier.bias.copy_(torch.from_numpy(bias))
    right = fitted.predict_proba(features)[np.arange(len(labels)), labels]
    return float(-np.log(right + 1e-12).mean())


def _read_pooled(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, input_ids: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Return the inputs of the last layer for texts `(N, P)`, of mean_max those of the mean."""
    batch = tokenizer.pad([{"input_ids": row} for row in input_ids], return_tensors="pt")
    batch = batch.to(model.device)
    pooled = model.pool(batch["input_ids"], batch["attention_mask"]).float()
    size = pooled.shape[1] // (2 if model.config.pooling == "mean_max" else 1)
    return pooled[:, :size]


@torch.inference_mode()
def _read_features(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[int]]
) -> np.ndarray:
    """Return the features `(N, P)` of all texts."""
    model.eval()
    order = np.argsort([len(text) for text in texts], kind="stable")
    pooled: list[torch.Tensor] = []
    for start in range(0, len(order), _BATCH):
        batch = [texts[row] for row in order[start : start + _BATCH]]
        pooled.append(_read_pooled(model, tokenizer, batch).cpu())
    return torch.cat(pooled).numpy()[np.argsort(order)]


def _read_projection(start: str, model: PreTrainedModel) -> torch.Tensor:
    """Return the map `(S, P)` of mean states to the teacher's space; the identity without one."""
    size = model.classifier.in_features // (2 if model.config.pooling == "mean_max" else 1)
    projection = torch.eye(size)
    path = find_folder(start) / "2_Dense" / "model.safetensors"
    if path.is_file():
        weight = load_file(path)["linear.weight"]
        if weight.shape[1] == size:
            projection = weight.float()
    return projection.to(model.device)
