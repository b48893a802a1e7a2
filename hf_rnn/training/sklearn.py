"""The estimators for scikit-learn: `fit` is `hf-rnn train` on texts in memory, and keeps a folder.

Trainer and datasets are imported by `fit`. Labels become class names, as a configuration needs
them; their type is kept in `task_specific_params` of the configuration, so that it travels with the
model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import tempfile
from collections.abc import Callable, Sequence
from itertools import compress
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias, Unpack

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from ..data import TableArguments
from ..hub.model_folder import FinishedFolder, find_folder, load_model, read_mapping
from ..hub.push import list_shared_files
from ..inference.predict import FastRnn
from ..models.settings_rnn import RnnSettings
from ..settings.fields import DataArguments, is_personal
from ..settings.resolve import resolve
from ..settings.training_arguments import RnnTrainingArguments
from ..settings.values import advise, list_settings
from ..tasks import DEFAULT_TASK, Config, compute_scores, task_of
from ..utils.errors import DataError, ModelError, SettingError, check_texts, out_of_arrow
from ..utils.process import contained, library_bars_off, one_at_a_time, only_errors

if TYPE_CHECKING:
    from datasets import Dataset
    from sklearn.utils import Tags

    from ..settings.keywords import EstimatorKeywords

EvalSet: TypeAlias = tuple[Sequence[str], npt.ArrayLike] | None  # texts and labels
_SETS = "multi-label"  # tasks besides the default one
_NUMBERS = "regression"
_LABEL_TYPE = "label_type"  # key of a configuration's `task_specific_params`
# settings, by `X` and `y`
_REPLACED = ("class_names", *(field.name for field in dataclasses.fields(TableArguments)))
# in place
_METHODS = (
    "disable_tqdm",
    "hub_",
    "output_dir",
    "overwrite_output_dir",
    "push_to_hub",
    "resume",
    "task",
)
_PARAMETERS = sorted(
    name
    for name in {
        *list_settings((RnnSettings, DataArguments, RnnTrainingArguments)),
        "random_state",
        "verbose",
    }
    if name not in _REPLACED and not name.startswith(_METHODS)
)


class _Targets(NamedTuple):
    """The meaning of `y`."""

    task: str
    # makes the column `label` of a data set from some `y`
    write: Callable[[npt.ArrayLike], list[Any]]
    names: list[str] | None  # names of classes, labels or numbers
    dtype: np.dtype[Any] | None = None  # type of the labels


class _RnnEstimator(BaseEstimator):
    """Settings, training and files of the estimators; a subclass reads `y` and answers."""

    random_state: Any
    verbose: Any
    _read_targets: Callable[[npt.ArrayLike], _Targets]
    # takes the labels of a model's configuration, or refuses its task
    _adopt_labels: Callable[[Config], None]

    def __init__(self, **settings: Unpack[EstimatorKeywords]) -> None:
        for name in settings.keys() - set(_PARAMETERS):
            hint = advise(name, _PARAMETERS)
            raise SettingError(f"{type(self).__name__}: there is no setting {name!r}{hint}")
        self.__dict__.update(dict.fromkeys(_PARAMETERS) | settings)

    # Scikit-learn reads the parameters here.
    __init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        + [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
            for name in _PARAMETERS
        ]
    )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = False  # numbers; a column of texts is accepted
        return tags

    def _fit(
        self,
        X: Sequence[str],
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None,
        eval_set: EvalSet,
    ) -> Self:
        from .prepare import Extension
        from .train import run_training

        targets = self._read_targets(y)
        rows = {"train": _make_split(X, y, targets)}
        if len(rows["train"]) < 2:
            raise DataError("fit needs two texts or more: found 1 sample")
        if eval_set is not None:
            rows["validation"] = _make_split(*eval_set, targets)

        extension = Extension()
        extension.quiet = self.verbose is not None and not self.verbose
        if sample_weight is not None:
            extension.sample_weights = _check_sample_weight(
                sample_weight, y, dtype=np.float64, ensure_non_negative=True
            )
        if targets.dtype is not None:
            label_type = {"dtype": targets.dtype.name}
            extension.config_fields = {"task_specific_params": {_LABEL_TYPE: label_type}}

        # the settings are read inside, because that resets accelerate's state of the process
        with (
            tempfile.TemporaryDirectory(prefix="hf-rnn-", ignore_cleanup_errors=True) as folder,
            one_at_a_time(),
        ):
            settings = resolve(
                {**self._list_settings(), "task": targets.task, "output_dir": folder}
            )
            settings.data.class_names = targets.names
            settings.data.label_separator = "\x1f"
            with contained(), only_errors() if extension.quiet else contextlib.nullcontext():
                run_training(settings, extension, rows)
            self._adopt(FinishedFolder(Path(folder)))
        return self

    def _list_settings(self) -> dict[str, Any]:
        """Return the settings of a run by name; those of files are reset, as a recipe has some."""
        settings: dict[str, Any] = dict.fromkeys(_REPLACED)
        for name, value in self.get_params(deep=False).items():
            if value is not None and name not in ("random_state", "verbose"):
                settings[name] = value
        seed = self.random_state
        if seed is not None:
            if not isinstance(seed, Integral):
                seed = check_random_state(seed).randint(2**31 - 1)
            settings["seed"] = int(seed)
            settings.setdefault("data_seed", int(seed))
        return settings

    def _adopt(self, folder: FinishedFolder) -> None:
        """Load a finished folder; its files are kept in memory."""
        with library_bars_off():
            model, tokenizer = load_model(folder.root)
        self._adopt_labels(model.config)
        paths = list_shared_files(folder, tokenizer.vocab_files_names.values())
        files = {name: path.read_bytes() for name, path in paths.items()}
        if folder.training_rows.is_file():
            files[folder.training_rows.name] = folder.training_rows.read_bytes()
        self.metrics_ = read_mapping(folder.metrics) if folder.metrics.is_file() else {}
        self._runner = FastRnn(model, tokenizer)
        self._files = files

    def _scores(self, X: Sequence[str]) -> np.ndarray:
        """Return the scores `(n, C)` in float64, in the order of the ids."""
        check_is_fitted(self)
        logits = self._runner.text_logits(_read_texts(X))
        return compute_scores(logits.astype(np.float64), self._runner.config)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the finished folder like `hf-rnn train`: all commands and [`hf_rnn.push`] take it.

        Its files replace older ones; other files stay. The last part of its path becomes the
        model's name in the card.
        """
        from ..hub.card import amend_card
        from .folder import lock_folder, replace_model

        check_is_fitted(self)
        target = FinishedFolder(Path(save_directory).expanduser())

        def write(folder: FinishedFolder) -> None:
            for name, content in self._files.items():
                (folder.root / name).parent.mkdir(parents=True, exist_ok=True)
                (folder.root / name).write_bytes(content)
            if "card" in self.metrics_:
                amend_card(folder, name=target.root.resolve().name)

        with lock_folder(target.root):
            replace_model(target, write, "Make room there, or name another folder")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        **settings: Unpack[EstimatorKeywords],
    ) -> Self:
        """Load a finished folder or a repo of the Hub, and take further settings.

        Labels of the command are strings. The settings of its run become the recipe of a new `fit`.

        Args:
            name_or_path: The folder, the name of a repo, or `./NAME`.
            revision: Branch, tag or commit of a repo; None is `main`.
            token: For a private repo; None takes the stored one.
            settings: As for the class.

        Raises:
            ModelError: For a model that is missing or damaged, or for another task.
            SettingError: For an unknown setting.
        """
        folder = FinishedFolder(find_folder(name_or_path, revision, token))
        if folder.training_args.is_file():
            record = read_mapping(folder.training_args)
            recipe = {name: value for name, value in record.items() if not is_personal(name)}
            settings.setdefault("recipe", recipe)
        estimator = cls(**settings)
        estimator._adopt(folder)
        return estimator


class RnnClassifier(ClassifierMixin, _RnnEstimator):
    """A recurrent text classifier for scikit-learn.

    Args:
        settings: Those of `hf-rnn train` by the names of its flags, on top of the recipe `recipe`
            (None is `default`); those of files are missing. None, the default of each, keeps the
            recipe's value. `random_state` replaces `seed`; with `verbose=False` nothing is shown.

    Attributes:
        classes_ (`numpy.ndarray`): The labels, sorted, with the type given to `fit`. For several
            labels per text: the names or numbers of the columns of `y`, in their order.
        metrics_ (`dict`): Contents of `metrics.json`: scores on the validation rows, and numbers of
            the training.

    Example:
        >>> texts = ["what a film", "never again", "loved it", "so dull"] * 20
        >>> labels = [1, 0, 1, 0] * 20
        >>> classifier = RnnClassifier(recipe="scratch", cell_type="gru", verbose=False)
        >>> classifier = classifier.fit(texts, labels)
        >>> classifier.predict(["loved the film"])
        array([1])
        >>> classifier.save_pretrained("film-reviews")
        >>> RnnClassifier.from_pretrained("film-reviews").classes_
        array([0, 1])
    """

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(
        self,
        X: Sequence[str],
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        eval_set: EvalSet = None,
    ) -> Self:
        """Train, as `hf-rnn train` would on the same rows.

        Args:
            X: n texts, none empty: a list, a column, an array `(n,)` or `(n, 1)`, or a frame of one
                column.
            y: n labels of two classes or more. For several labels per text, 0 and 1 `(n, labels)`;
                a frame names them.
            sample_weight: n weights in the training loss, on top of `class_weight_power`, for one
                label per text.
            eval_set: Texts and labels of the validation rows, by default a tenth, the same rows as
                by the command.

        Raises:
            UserError: For a bad setting, and for texts and labels that cannot be used. The
                estimator keeps its state.
        """
        return self._fit(X, y, sample_weight, eval_set)

    def _read_targets(self, y: npt.ArrayLike) -> _Targets:
        # a sparse matrix has a shape, but not for NumPy
        shape = getattr(y, "shape", None) or np.shape(y)
        return _read_columns(y, _SETS) if len(shape) == 2 and shape[1] != 1 else _read_classes(y)

    def _adopt_labels(self, config: Config) -> None:
        task = task_of(config)
        if not (task.one_label or task.name == _SETS):
            raise ModelError(
                f"the model is for the task {task.name}: RnnClassifier needs labels of texts"
            )
        names = np.array([config.id2label[number] for number in range(config.num_labels)])
        stored = (getattr(config, "task_specific_params", None) or {}).get(_LABEL_TYPE, {})
        dtype = np.dtype(stored.get("dtype", "str").partition("str")[0] or "str")
        self.classes_ = names == "True" if dtype.kind == "b" else names.astype(dtype)
        self._columns = np.arange(len(names))
        self._thresholds = None
        if task.name == _SETS:
            self._thresholds = np.array(config.label_thresholds or [0.5] * len(names))
        else:  # scikit-learn needs sorted classes, and columns of predict_proba in their order
            self.classes_, self._columns = np.unique(self.classes_, return_index=True)

    def predict(self, X: Sequence[str]) -> np.ndarray:
        """Return the most probable label of each text `(n,)`; texts may be empty.

        For several labels per text it is 0 and 1 `(n, labels)`, by the thresholds that `fit` chose
        on validation rows.
        """
        scores = self.predict_proba(X)
        if self._thresholds is not None:
            return (scores > self._thresholds).astype(np.int64)
        return self.classes_[scores.argmax(axis=1)]

    def predict_proba(self, X: Sequence[str]) -> np.ndarray:
        """Return the probability of each class or label per text `(n, classes)`.

        Columns are in the order of `classes_`.
        """
        return self._scores(X)[:, self._columns]


class RnnRegressor(RegressorMixin, _RnnEstimator):
    """A recurrent network that predicts numbers from texts, for scikit-learn.

    Settings and `metrics_` are those of [`RnnClassifier`].

    Example:
        >>> texts = ["what a film", "so dull"] * 40
        >>> regressor = RnnRegressor(verbose=False).fit(texts, [4.5, 2.0] * 40)
        >>> regressor.predict(["loved it"]).shape
        (1,)
    """

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Sequence[str], y: npt.ArrayLike, eval_set: EvalSet = None) -> Self:
        """Train on n texts and n numbers, or n rows of them; see [`RnnClassifier.fit`]."""
        return self._fit(X, y, None, eval_set)

    def _read_targets(self, y: npt.ArrayLike) -> _Targets:
        return _read_columns(y, _NUMBERS)

    def _adopt_labels(self, config: Config) -> None:
        task = task_of(config)
        if task.name != _NUMBERS:
            raise ModelError(
                f"the model is for the task {task.name}: RnnRegressor needs {_NUMBERS}"
            )

    def predict(self, X: Sequence[str]) -> np.ndarray:
        """Return the number of each text `(n,)`, or numbers `(n, numbers)`; texts may be empty."""
        scores = self._scores(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores


# ---- from `X` and `y` to a data set ----


def _read_classes(y: npt.ArrayLike) -> _Targets:
    """Read a class per row, of two or more."""

    def write(y: npt.ArrayLike) -> list[str]:
        return list(map(str, _read_labels(y).tolist()))

    check_classification_targets(y)
    classes = np.unique(_read_labels(y))
    if len(classes) < 2:
        raise DataError(
            f"y must contain two classes or more: found {len(classes)} class, {classes.tolist()}"
        )
    return _Targets(DEFAULT_TASK, write, write(classes), classes.dtype)


def _read_labels(y: npt.ArrayLike) -> np.ndarray:
    """Return labels `(n,)` with the type that numpy finds for them."""
    labels = column_or_1d(np.asarray(out_of_arrow(y)), warn=True)
    return np.asarray(labels.tolist()) if labels.dtype.kind == "O" else labels


def _read_columns(y: npt.ArrayLike, task: str) -> _Targets:
    """Read 0 and 1 `(n, labels)`, dense or sparse, or numbers `(n,)` or `(n, numbers)`.

    A frame names the columns.
    """
    columns = getattr(y, "columns", None)
    labels = np.arange(_read_matrix(y).shape[1])
    if columns is not None:
        labels = np.array([str(column) for column in columns])
    names = [str(label) for label in labels.tolist()]

    def write_numbers(y: npt.ArrayLike) -> list[list[float]]:
        return _read_matrix(y).tolist()

    def write_sets(y: npt.ArrayLike) -> list[list[str]]:
        matrix = _read_matrix(y)
        if not np.isin(matrix, (0, 1)).all():
            raise DataError(
                f"y must have a class per text, or 0 and 1 in {len(names)} columns: found {y!r:.80}"
            )
        return [list(compress(names, row)) for row in matrix]

    if task == _SETS:
        return _Targets(task, write_sets, names, labels.dtype)
    return _Targets(task, write_numbers, None if columns is None else names)


def _read_matrix(y: Any) -> np.ndarray:
    """Return numbers `(n, columns)` in float64."""
    dense = y.toarray() if hasattr(y, "toarray") else y
    matrix = check_array(dense, ensure_2d=False, dtype=np.float64)
    return matrix[:, None] if matrix.ndim == 1 else matrix


def _make_split(X: Sequence[str], y: npt.ArrayLike, targets: _Targets) -> Dataset:
    import datasets

    from ..data.errors import text_fault

    texts = _read_texts(X)
    check_consistent_length(texts, y)
    for position, text in enumerate(texts):
        fault = text_fault(text)
        if fault:
            raise DataError(f"X[{position}]: {fault.detail}; leave out the text and its label")
    return datasets.Dataset.from_dict({"text": texts, "label": targets.write(y)})


def _read_texts(X: Sequence[str]) -> list[str]:
    """Return texts of a list, an array `(n,)` or `(n, 1)`, a column or a frame of one column.

    They may be empty.
    """
    texts = np.asarray(out_of_arrow(X), dtype=object)
    if texts.shape != (texts.size,) and texts.shape != (texts.size, 1):
        raise DataError(f"X must be a 1d array of texts: found an array of shape {texts.shape}")
    column = texts.ravel().tolist()
    check_texts(column, "X")
    return [str.__str__(text) for text in column]  # without numpy.str_
