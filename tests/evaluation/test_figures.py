"""Figures: what they show, their size, and missing data."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from hf_rnn.evaluation.figures import plot_confusion_matrix, plot_learning_curve

SCORES = {"eval_accuracy": 0.45, "eval_macro_f1": 0.3}
LOG = [
    {"loss": 1.1, "grad_norm": 2.0, "epoch": 1.0, "step": 10},
    {"eval_loss": 1.0, **SCORES, "epoch": 1.0, "step": 10},
    {"loss": 0.7, "epoch": 2.0, "step": 20},
    {"eval_loss": 0.9, "eval_accuracy": 0.5, "eval_macro_f1": 0.4, "epoch": 2.0},
    {"train_runtime": 3.0, "train_loss": 0.9, "epoch": 2.0},
    {"eval_loss": 0.8, "epoch": 2.0},  # the best model, evaluated after training
]
NAMES = ["negative", "neutral", "positive"]
MATRIX = [[12, 3, 5], [0, 0, 0], [1, 2, 1300]]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written, in order."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *given, **named: (figures.append(self), save(self, *given, **named))[1],
    )
    return figures


def curves(axes):
    return {line.get_label(): np.column_stack(line.get_data()).tolist() for line in axes.lines}


def test_learning_curve_shows_the_log(tmp_path, drawn):
    caption = plot_learning_curve(LOG, tmp_path / "curve.png", kept_step=10)
    loss, score = drawn[0].axes
    kept = {"kept: epoch 1": [[1, 0], [1, 1]]}
    assert curves(loss) == {
        "train, with dropout": [[1, 1.1], [2, 0.7]],
        "validation": [[1, 1.0], [2, 0.8]],
        **kept,
    }
    assert curves(score) == {
        **kept,
        "accuracy, validation": [[1, 0.45], [2, 0.5]],
        "macro f1, validation": [[1, 0.3], [2, 0.4]],
    }
    assert "smoothing" not in caption


def test_confusion_matrix_shows_counts_and_shares(tmp_path, drawn):
    plot_confusion_matrix(MATRIX, NAMES, tmp_path / "matrix.png")
    axes = drawn[0].axes[0]
    texts = {tuple(text.get_position()): text.get_text() for text in axes.texts}
    assert (texts[0, 0], texts[2, 0], texts[2, 2]) == ("12", "5", "1,300")  # column, row
    assert len(texts) == np.count_nonzero(MATRIX)
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "negative  0",
        "neutral  1",
        "positive  2",
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == NAMES
    np.testing.assert_allclose(axes.images[0].get_array()[0], [0.6, 0.15, 0.25])
    np.testing.assert_array_equal(axes.images[0].get_array()[1], [0, 0, 0])


@pytest.mark.parametrize("size", [40, 120])
def test_any_number_of_classes_fits(tmp_path, drawn, size):
    names = [f"a class name {'that continues ' * 5}number {index}" for index in range(size)]
    plot_confusion_matrix(np.eye(size, dtype=int) * 12345, names, tmp_path / "matrix.png")
    height, width, _ = imread(tmp_path / "matrix.png").shape
    assert max(height, width) < 4000
    drawn[0].dpi = 144  # as it was saved: letters are rounded to pixels
    axes = drawn[0].axes[0]
    labels = axes.get_yticklabels()
    assert len({label.get_text() for label in labels}) == len(labels), "cut names still differ"
    columns, rows = (
        [label.get_text() for label in half] for half in (axes.get_xticklabels(), labels)
    )
    assert [row.rpartition("  ")[0] or row for row in rows] == columns, "ids on one axis only"
    ticks = [label.get_window_extent() for label in labels]
    assert all(upper.y0 >= lower.y1 for upper, lower in zip(ticks, ticks[1:], strict=False))
    if boxes := [text.get_window_extent() for text in axes.texts[:2]]:
        assert boxes[0].x1 < boxes[1].x0, "numbers do not touch"
