"""The estimators for scikit-learn: `fit` is `hf-rnn train` on texts in memory, and keeps the finished folder.

Trainer and datasets are imported by `fit`. Labels become class names, as a configuration needs them; their type is
kept in `task_specific_params` of the configuration, so that it travels with the model.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import tempfile
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from ...data.splits import hold_out
from ...hub.loading import find_folder, load_model
from ...hub.model_folder import FinishedFolder, read_mapping
from ...hub.push import list_shared_files
from ...inference.predictor import FastRnn
from ...tasks import DEFAULT_TASK, get_task, task_of
from ...tasks.answers import compute_scores
from ...utils.errors import UserError
from ...utils.process_state import contained, library_bars_off, one_at_a_time
from ..settings import DataArguments, ModelArguments, TableArguments, parse_settings
from ..teacher_settings import DistillationArguments
from ..training_arguments import RnnTrainingArguments
from .targets import LABEL_TYPE, Classes, Numbers, Sets, Targets, is_matrix, read_texts, restore_labels

if TYPE_CHECKING:
    from sklearn.utils import Tags

    from ...hub.card import CardFacts
    from ...hub.push import PushResult

_OWN = ("random_state", "verbose")
_COMMAND = [
    field.name
    for kind in (ModelArguments, DataArguments, RnnTrainingArguments)
    for field in dataclasses.fields(kind)
    if field.init
]
# Settings of the command that the methods replace.
_REPLACED = {"class_names", "task", "output_dir", "overwrite_output_dir", "disable_tqdm"}
_REPLACED |= {field.name for field in dataclasses.fields(TableArguments)}
_REPLACED |= {name for name in _COMMAND if name.startswith(("resume", "hub_", "push_to_hub"))}


class RnnEstimator(BaseEstimator):
    """Settings, training and files of the estimators; a subclass reads `y` and answers."""

    random_state: Any
    verbose: Any
    _name = "rnn-model"  # the model's name until it is saved

    def __init__(self, **settings: Any) -> None:
        given = _SIGNATURE.bind(self, **settings)
        given.apply_defaults()
        self.__dict__.update((name, value) for name, value in given.arguments.items() if name != "self")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = False  # numbers; a column of texts is accepted
        return tags

    # ---- training ----

    def fit(
        self,
        X: Sequence[str],  # noqa: N803 - scikit-learn's name
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        eval_set: tuple[Sequence[str], npt.ArrayLike] | None = None,
    ) -> Self:
        """Train, as `hf-rnn train` would on the same rows.

        The best epoch on the validation rows is kept. The Trainer chooses the device; predictions run on the CPU with
        [`FastRnn`]. The random states of the process do not change.

        Args:
            X: n texts: a list, a column, an array of shape `(n,)` or `(n, 1)`, or a frame of one column. An empty text
                is refused.
            y: n labels of one type, with two classes at least; for several labels per text 0 and 1 `(n, labels)`, an
                array or a frame, whose columns name the labels. For [`RnnRegressor`] n numbers, or rows of them.
            sample_weight: n weights of the texts in the training loss, on top of `class_weight_power`. Weight 2 counts
                like two copies of a text. Validation rows are not weighted. For one label per text.
            eval_set: Texts and labels of the validation rows. By default a tenth of the rows is held out, stratified
                by label: the same rows as by the command.

        Raises:
            UserError: For a bad setting, and for texts and labels that cannot be used. The estimator keeps its
                earlier state.
        """
        from ...data.row_errors import DataReport
        from ..train import check_early, train_on

        texts = read_texts(X)
        targets = self._read_targets(y)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, texts, dtype=np.float64, ensure_non_negative=True)
            if targets.task != DEFAULT_TASK:
                raise UserError(f"sample_weight is for one label per text: the task is {targets.task}; leave it out")
        train = targets.as_dataset(texts, y)
        if eval_set is None:
            strata = np.zeros(len(texts), dtype=np.int64) if targets.strata is None else targets.strata
            held_out = hold_out(texts, strata, share=0.1, seed=0)
            validation = train.select(np.flatnonzero(held_out)) if held_out.any() else None
            train = train.select(np.flatnonzero(~held_out))
            weights = None if weights is None else weights[~held_out]
        else:
            validation = targets.as_dataset(read_texts(eval_set[0], "eval_set X"), eval_set[1], "eval_set ")
        splits = {"train": train} if validation is None else {"train": train, "validation": validation}
        quiet = self.verbose is not None and not self.verbose
        with tempfile.TemporaryDirectory(prefix="hf-rnn-", ignore_cleanup_errors=True) as parent:
            folder = FinishedFolder(Path(parent) / self._name)
            with one_at_a_time():
                # inside, because it resets accelerate's state of the process
                settings = {**self._settings(str(folder.root)), "task": targets.task}
                arguments = parse_settings(settings, prog=type(self).__name__)
                check_early(arguments)
                report, columns = DataReport(), copy.copy(arguments.data)
                vars(columns).update(targets.columns)
                with contained():
                    rows = get_task(targets.task).read(columns, data=splits, report=report)
                    rows_held_out = 0 if eval_set is not None else int(held_out.sum())
                    report.held_out = {"share": 0.1, "seed": 0, "rows": rows_held_out} if rows_held_out else None
                    options: dict[str, Any] = {"task_specific_params": targets.record, "quiet": quiet}
                    result = train_on(rows, report, arguments, given=settings, sample_weights=weights, **options)
            self._adopt(folder, result.card)
        return self

    def _read_targets(self, y: npt.ArrayLike) -> Targets:
        """Return the content of `y`."""
        raise NotImplementedError

    def _adopt_labels(self, config: Any) -> None:
        """Take names and types of the labels from a loaded model; refuse a model of another task."""
        raise NotImplementedError

    def _settings(self, output_dir: str) -> dict[str, Any]:
        """Return the settings for the command."""
        given = {
            name: value.tolist() if isinstance(value, np.generic | np.ndarray) else value
            for name, value in self.get_params(deep=False).items()
            if value is not None and name not in _OWN
        }
        if isinstance(given.get("recipe"), Mapping):  # a student's, and `fit` has no teacher
            teaching = {field.name for field in dataclasses.fields(DistillationArguments)}
            given["recipe"] = {name: value for name, value in given["recipe"].items() if name not in teaching}
        if (seed := self.random_state) is not None:
            given["seed"] = int(seed if isinstance(seed, Integral) else check_random_state(seed).randint(2**31 - 1))
            given.setdefault("data_seed", given["seed"])
        return {**dict.fromkeys(_REPLACED), **given, "output_dir": output_dir}  # the recipe may contain replaced ones

    def _adopt(self, folder: FinishedFolder, card: CardFacts | None = None) -> None:
        """Load a finished folder; its files are kept in memory."""
        with library_bars_off():
            model, tokenizer = load_model(folder.root)
        self._adopt_labels(model.config)
        kept = list_shared_files(folder, tokenizer.vocab_files_names.values())
        files = {name: path.read_bytes() for name, path in kept.items()}
        self.metrics_ = read_mapping(folder.metrics, files.get(folder.metrics.name, b"{}"))
        self._runner, self._files, self._card = FastRnn(model, tokenizer), files, card

    def _scores(self, X: Sequence[str]) -> np.ndarray:  # noqa: N803
        """Return the scores `(n, C)` in float64, in the order of the ids."""
        check_is_fitted(self)
        logits = self._runner.text_logits(read_texts(X))
        return compute_scores(logits.astype(np.float64), self._runner.config)

    def predict_table(self, table: Any, **settings: Any) -> Any:
        """Return a frame with the columns of answers, such as `label` and `score`; see [`FastRnn.predict_table`]."""
        from ...inference.tables import TableSettings, predict_table

        check_is_fitted(self)
        labels = getattr(self, "classes_", np.array([""]))  # regression has no classes
        kind = None if labels.dtype.kind == "U" else pa.from_numpy_dtype(labels.dtype)
        return predict_table(self._runner, table, TableSettings(**settings), kind)

    # ---- keeping ----

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the finished folder: weights, tokenizer, card, metrics, settings, figures and modelling files.

        Every command accepts it, like a folder of `hf-rnn train`. Its files replace older ones; other files stay.

        Args:
            save_directory: The folder; its last part becomes the model's name in the card.
        """
        from ...hub.card import write_card
        from ..checkpoints import fill, hold_folder

        check_is_fitted(self)
        target = FinishedFolder(Path(save_directory).expanduser())

        def write(folder: FinishedFolder) -> None:
            _write_files(folder.root, self._files)
            if self._card is not None:
                write_card(folder, dataclasses.replace(self._card, name=target.root.resolve().name))

        with hold_folder(target.root):
            fill(target, write, "Make room there, or name another folder")

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, revision: str | None = None, token: str | None = None, **settings: Any
    ) -> Self:
        """Load a finished folder of `save_pretrained`, `push_to_hub` or the command.

        Labels of the command are strings. The settings of its run become the recipe of a new `fit`.

        Args:
            name_or_path: A finished folder, or a repo id of the Hub.
            revision: Branch, tag or commit, for a repo id.
            token: For a private repo; None takes the stored one.
            settings: Further settings, such as `use_cpu=True`.

        Example:
            >>> RnnClassifier.from_pretrained("me/film-reviews", revision="v1").predict(["never again"])
            array([0])
        """
        folder = FinishedFolder(find_folder(name_or_path, revision, token))
        if folder.training_args.is_file():
            settings.setdefault("recipe", read_mapping(folder.training_args, folder.training_args.read_bytes()))
        classifier = cls(**settings)
        classifier._adopt(folder)
        return classifier

    def push_to_hub(self, repo_id: str, **options: Any) -> PushResult:
        """Push the finished folder to the Hub in one commit, like `hf-rnn push`.

        Args:
            repo_id: `owner/name`.
            options: As for [`push`]: `private`, `revision`, `dry_run`, `token`, `commit_message`.
        """
        from ...hub.push import check_repo_id, push

        check_is_fitted(self)
        check_repo_id(repo_id)  # a part of it becomes a folder's name
        with tempfile.TemporaryDirectory(prefix="hf-rnn-", ignore_cleanup_errors=True) as parent:
            folder = Path(parent) / repo_id.split("/")[-1]
            self.save_pretrained(folder)
            with library_bars_off():
                return push(folder, repo_id, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the loaded model, which `_files` contains."""
        return {name: value for name, value in super().__getstate__().items() if name != "_runner"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_files" in state:
            with tempfile.TemporaryDirectory(prefix="hf-rnn-", ignore_cleanup_errors=True) as parent:
                _write_files(Path(parent), self._files)
                self._adopt(FinishedFolder(Path(parent)), self._card)


_PARAMETERS = [
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
    for name in [*_COMMAND, *_OWN]
    if name not in _REPLACED
]
_SIGNATURE = inspect.Signature([inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY), *_PARAMETERS])
RnnEstimator.__init__.__signature__ = _SIGNATURE  # type: ignore[attr-defined]  # scikit-learn reads the settings here


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


class RnnClassifier(ClassifierMixin, RnnEstimator):
    """A recurrent text classifier for scikit-learn.

    Args:
        settings: The settings of `hf-rnn train` by the names of its flags, on top of the recipe `recipe` (None is
            `default`, which fine-tunes the English encoder of the package; see [`train`]). None, the default of each,
            keeps the recipe's value. Settings of files are missing: texts go to `fit`, and `save_pretrained` writes
            the finished folder. Two are added:

            - `random_state` (`int` or `numpy.random.RandomState`, *optional*): Replaces `seed`. A RandomState draws
              a new seed for each `fit`.
            - `verbose` (`bool`, *optional*): Whether `fit` shows a bar and a line per epoch on stderr; None shows
              them.

    Attributes:
        classes_ (`numpy.ndarray`): The labels, sorted, with the type given to `fit`. For several labels per text: the
            names or numbers of the columns of `y`, in their order.
        metrics_ (`dict`): Contents of `metrics.json`: scores on the validation rows, and numbers of the training.

    Example:
        >>> texts = ["what a film", "never again", "loved it", "so dull"] * 20
        >>> labels = [1, 0, 1, 0] * 20
        >>> classifier = RnnClassifier(recipe="scratch", cell_type="gru", verbose=False).fit(texts, labels)
        >>> classifier.predict(["loved the film"])
        array([1])
        >>> classifier.save_pretrained("film-reviews")
        >>> RnnClassifier.from_pretrained("film-reviews").classes_
        array([0, 1])

        In a search:

        >>> from sklearn.model_selection import GridSearchCV
        >>> search = GridSearchCV(RnnClassifier(verbose=False), {"learning_rate": [5e-4, 1e-3]}, cv=3)
        >>> search.fit(texts, labels).best_params_
    """

    _name = "rnn-classifier"

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _read_targets(self, y: npt.ArrayLike) -> Targets:
        return Sets(y) if is_matrix(y) else Classes(y)

    def _adopt_labels(self, config: Any) -> None:
        task = task_of(config)
        several = task.name == Sets.task
        if not (task.one_label or several):
            raise UserError(f"the model is for the task {task.name}: RnnClassifier needs labels of texts")
        names = [config.id2label[number] for number in range(config.num_labels)]
        record = (getattr(config, "task_specific_params", None) or {}).get(LABEL_TYPE)
        self.classes_ = restore_labels(names, record)
        self._columns, self._thresholds = np.arange(len(names)), None
        if several:
            self._thresholds = np.array(config.label_thresholds or [0.5] * len(names))
        else:  # scikit-learn needs sorted classes, and columns of predict_proba in their order
            self.classes_, self._columns = np.unique(self.classes_, return_index=True)

    def predict(self, X: Sequence[str]) -> np.ndarray:  # noqa: N803
        """Return the most probable label of each text, shape `(n,)`.

        For several labels per text it is 0 and 1 `(n, labels)`, by the thresholds that `fit` chose on the validation
        rows.

        Args:
            X: n texts, as for `fit`; a text may be empty.
        """
        scores = self.predict_proba(X)
        if self._thresholds is not None:
            return (scores > self._thresholds).astype(np.int64)
        return self.classes_[scores.argmax(axis=1)]

    def predict_proba(self, X: Sequence[str]) -> np.ndarray:  # noqa: N803
        """Return the probability of each class per text, shape `(n, classes)`, in the order of `classes_`.

        For several labels per text it is the probability of each label.
        """
        return self._scores(X)[:, self._columns]

    def predict_log_proba(self, X: Sequence[str]) -> np.ndarray:  # noqa: N803
        """Return the logarithm of `predict_proba`."""
        return np.log(self.predict_proba(X))


class RnnRegressor(RegressorMixin, RnnEstimator):
    """A recurrent network that predicts numbers from texts, for scikit-learn.

    Args:
        settings: As of [`RnnClassifier`].

    Attributes:
        metrics_ (`dict`): Contents of `metrics.json`: scores on the validation rows, and numbers of the training.

    Example:
        >>> texts = ["what a film", "never again", "loved it", "so dull"] * 20
        >>> stars = [4.5, 1.0, 5.0, 2.0] * 20
        >>> regressor = RnnRegressor(cell_type="gru", verbose=False).fit(texts, stars)
        >>> regressor.predict(["loved the film"]).shape
        (1,)
    """

    _name = "rnn-regressor"

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _read_targets(self, y: npt.ArrayLike) -> Targets:
        return Numbers(y)

    def _adopt_labels(self, config: Any) -> None:
        if (task := task_of(config)).name != Numbers.task:
            raise UserError(f"the model is for the task {task.name}: RnnRegressor needs {Numbers.task}")

    def predict(self, X: Sequence[str]) -> np.ndarray:  # noqa: N803
        """Return the number of each text, shape `(n,)`, or its numbers, shape `(n, numbers)`.

        Args:
            X: n texts, as for `fit`; a text may be empty.
        """
        scores = self._scores(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores
