"""The figures: drawn without a display, the same each time, and saying what the numbers say."""

import builtins
import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.image import imread

from hf_rnn.evaluation.figures import plot_confusion_matrix, plot_learning_curve, plot_reliability
from hf_rnn.utils.errors import UserError

LOG = [
    {"loss": 1.1, "grad_norm": 2.0, "train_accuracy": 0.4, "epoch": 1.0, "step": 10},
    {"eval_loss": 1.0, "eval_accuracy": 0.45, "eval_macro_f1": 0.3, "eval_macro_recall": 0.35, "epoch": 1.0},
    {"loss": 0.7, "train_accuracy": 0.6, "epoch": 2.0, "step": 20},
    {"eval_loss": 0.9, "eval_accuracy": 0.5, "eval_macro_f1": 0.4, "eval_macro_recall": 0.45, "epoch": 2.0},
    {"train_runtime": 3.0, "train_loss": 0.9, "epoch": 2.0},
]
NAMES = ["negative", "neutral", "positive"]
MATRIX = [[12, 3, 5], [0, 0, 0], [1, 2, 1300]]
TABLE = {"share": [0.0, 0.25, 0.75], "confidence": [None, 0.5, 0.9], "accuracy": [None, 0.25, 0.75]}
EMPTY = {"share": [0.0, 0.0], "confidence": [None, None], "accuracy": [None, None]}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written, in order."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *given, **named: (figures.append(self), save(self, *given, **named))[1]
    )
    return figures


def curves(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_learning_curve_shows_the_log(tmp_path, drawn):
    plot_learning_curve(LOG, tmp_path / "curve.png")
    loss, score = drawn[0].axes
    assert curves(loss) == {"train": [[1, 1.1], [2, 0.7]], "validation": [[1, 1.0], [2, 0.9]]}
    assert curves(score) == {
        "accuracy, train": [[1, 0.4], [2, 0.6]],
        "accuracy, validation": [[1, 0.45], [2, 0.5]],
        "macro F1, validation": [[1, 0.3], [2, 0.4]],
        "macro recall, validation": [[1, 0.35], [2, 0.45]],
    }
    colours = [to_hex(line.get_color()) for line in score.lines]
    assert len(set(colours)) == len({line.get_marker() for line in score.lines}) == 4


def test_learning_curve_without_validation_has_one_panel(tmp_path, drawn):
    plot_learning_curve([{"loss": 1.0, "epoch": 1.0}, {"loss": float("nan"), "epoch": 2.0}], tmp_path / "curve.png")
    (axes,) = drawn[0].axes
    assert curves(axes) == {"train": [[1, 1.0]]}  # what is not finite is not drawn


def test_an_epoch_evaluated_twice_counts_once(tmp_path, drawn):
    again = {"eval_loss": 0.8, "epoch": 2.0}  # the best model, evaluated after training
    plot_learning_curve([*LOG, again], tmp_path / "curve.png")
    assert curves(drawn[0].axes[0])["validation"] == [[1, 1.0], [2, 0.8]]


def test_confusion_matrix_shows_counts_and_shares(tmp_path, drawn):
    plot_confusion_matrix(MATRIX, NAMES, tmp_path / "matrix.png")
    axes = drawn[0].axes[0]
    texts = {tuple(text.get_position()): text.get_text() for text in axes.texts}
    assert texts[(0, 0)] == "12"
    assert texts[(2, 0)] == "5"  # column, row
    assert texts[(2, 2)] == "1,300"
    assert [label.get_text() for label in axes.get_yticklabels()] == NAMES
    np.testing.assert_allclose(axes.images[0].get_array()[0], [0.6, 0.15, 0.25])
    np.testing.assert_array_equal(axes.images[0].get_array()[1], [0, 0, 0])  # a class without rows


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 20, 40, 60])
def test_any_number_of_classes_fits(tmp_path, drawn, size):
    names = [f"a class name {'that goes on ' * 5}number {index}" for index in range(size)]
    plot_confusion_matrix(np.eye(size, dtype=int) * 12345, names, tmp_path / "matrix.png")
    height, width, _ = imread(tmp_path / "matrix.png").shape
    assert max(height, width) < 4000
    figure = drawn[0]
    if size <= 40:
        labels = figure.axes[0].get_yticklabels()
        assert len({label.get_text() for label in labels}) == size  # cut names still differ
        assert max(len(label.get_text()) for label in labels) <= 24
        boxes = [text.get_window_extent() for text in figure.axes[0].texts[:2]]
        assert len(boxes) < 2 or boxes[0].x1 < boxes[1].x0  # numbers do not touch
        ticks = [label.get_window_extent() for label in labels]
        assert all(upper.y0 >= lower.y1 for upper, lower in zip(ticks, ticks[1:], strict=False))
    assert figure.axes[0].get_ylabel() == ("true class" if size <= 40 else "true class id")
    if size > 6:  # letters of 10 points that a card shows at some 8 inches
        assert figure.get_size_inches().max() < 14


def test_names_that_differ_where_they_are_cut_have_their_ids(tmp_path, drawn):
    names = [f"a very long class name, number {index}, that nobody would ever type in full" for index in range(3)]
    plot_confusion_matrix(np.eye(3, dtype=int), names, tmp_path / "matrix.png")
    labels = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert [label.split(":")[0] for label in labels] == ["0", "1", "2"]
    assert all(label[3:] == labels[0][3:] for label in labels), "premise: the rest is the same"


@pytest.mark.filterwarnings("error:Glyph")
def test_any_name_is_drawn_as_it_stands(tmp_path, drawn):
    names = ["$\\frac{$", "Łódź", "<b> & _x_", "😀 100%"]
    plot_confusion_matrix(np.eye(4, dtype=int), names, tmp_path / "matrix.png")
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == names


@pytest.mark.filterwarnings("error:Glyph")
def test_names_in_letters_that_another_font_has(tmp_path, drawn, caplog):
    """STIX, which comes with matplotlib, has some that its usual font has not."""
    own = get_font(findfont("DejaVu Sans")).get_charmap()
    lacking = next(chr(code) for code in get_font(findfont("STIXGeneral")).get_charmap() if code not in own)
    plot_confusion_matrix(np.eye(2, dtype=int), [lacking, "b"], tmp_path / "matrix.png")
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == [lacking, "b"]
    assert not caplog.records


@pytest.mark.filterwarnings("error:Glyph")
def test_names_that_no_font_has_are_told_by_their_ids(tmp_path, drawn, caplog, monkeypatch):
    """Matplotlib's font of last resort has one and the same box for all of them."""
    monkeypatch.setattr(fontManager, "ttflist", [font for font in fontManager.ttflist if "Last" in font.name])
    plot_confusion_matrix(np.eye(2, dtype=int), ["客服", "plain"], tmp_path / "matrix.png")
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["0", "1"]
    assert "no font here has all characters" in caplog.text


def test_wide_letters_do_not_run_into_each_other(tmp_path, drawn, monkeypatch):
    """Each takes the room of two; where no font has them, boxes of that width are drawn here."""
    monkeypatch.setattr("hf_rnn.evaluation.figures._fonts_for", lambda text: [])
    for name, slant in (("abcdefgh", 0), ("客服客服客服客服", 45)):
        plot_confusion_matrix(np.eye(2, dtype=int), [name, name[::-1]], tmp_path / "matrix.png")
        assert drawn[-1].axes[0].get_xticklabels()[0].get_rotation() == slant


def test_same_numbers_same_bytes_whatever_the_user_set(tmp_path):
    def draw(name):
        plot_learning_curve(LOG, tmp_path / f"curve {name}")
        plot_confusion_matrix(MATRIX, NAMES, tmp_path / f"matrix {name}")
        plot_reliability({"before": TABLE}, tmp_path / f"reliability {name}")
        return [(tmp_path / f"{figure} {name}").read_bytes() for figure in ("curve", "matrix", "reliability")]

    first = draw("first")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "lines.linewidth": 9}):
        assert draw("second") == first
        assert matplotlib.rcParams["font.size"] == 30
    assert first[0].startswith(b"\x89PNG")
    assert not any(b"Software" in content for content in first), "nor which matplotlib drew them"


def test_no_display_and_no_pyplot(tmp_path):
    program = (
        "import sys; __file__ = 'hf-rnn'\n"  # leaves out the models, which take seconds to import
        "from hf_rnn.evaluation.figures import plot_confusion_matrix\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"plot_confusion_matrix([[1]], ['a'], {str(tmp_path / 'matrix.png')!r})\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "MPLBACKEND": "tkagg"}, check=True)
    assert (tmp_path / "matrix.png").stat().st_size > 1000


@pytest.mark.parametrize("log", [[], [{"train_runtime": 1.0, "epoch": 1.0}], [{"loss": float("nan"), "epoch": 1.0}]])
def test_nothing_to_draw(tmp_path, log):
    with pytest.raises(UserError, match="no loss"):
        plot_learning_curve(log, tmp_path / "curve.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("matrix", "names"), [([[1, 2]], ["a"]), ([[1]], ["a", "b"]), ([], [])])
def test_matrix_and_names_that_do_not_fit(tmp_path, matrix, names):
    with pytest.raises(UserError, match=f"does not fit {len(names)} class names"):
        plot_confusion_matrix(matrix, names, tmp_path / "matrix.png")


def test_reliability_shows_the_tables(tmp_path, drawn):
    after = {"share": [0.5, 0.5], "confidence": [0.4, 0.8], "accuracy": [0.4, 0.7]}
    plot_reliability({"before": TABLE, "after": after}, tmp_path / "reliability.png")
    (axes,) = drawn[0].axes
    found = curves(axes)
    assert found.pop("as sure as right") == [[0, 0], [1, 1]]
    assert found == {"before": [[0.5, 0.25], [0.9, 0.75]], "after": [[0.4, 0.4], [0.8, 0.7]]}, "no empty bin"
    few, many = axes.collections[0].get_sizes()
    assert few < many, "the more rows, the larger"
    assert axes.get_xlim() == axes.get_ylim() == (0, 1)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["as sure as right", "before", "after"]
    assert len({to_hex(line.get_color()) for line in axes.lines}) == 3
    assert imread(tmp_path / "reliability.png").shape[0] > 300


def test_reliability_of_nothing(tmp_path, drawn):
    for tables in ({}, {"before": EMPTY}, {"before": {"share": [], "confidence": [], "accuracy": []}}):
        with pytest.raises(UserError, match="no row whose confidence could be drawn"):
            plot_reliability(tables, tmp_path / "reliability.png")
    assert not list(tmp_path.iterdir())
    plot_reliability({"before": EMPTY, "after": TABLE}, tmp_path / "reliability.png")
    assert curves(drawn[0].axes[0])["before"] == []


def test_without_matplotlib_the_error_says_what_to_type(tmp_path, monkeypatch):
    def refuse(name, *given, original=builtins.__import__, **named):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"pip install 'hf-rnn\[plots\]'"):
        plot_learning_curve(LOG, tmp_path / "curve.png")
