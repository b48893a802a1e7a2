"""Texts and labels in, labels out: the whole package behind the interface of a scikit-learn classifier.

Nothing is trained, measured or written here that the command does not do in the same way: `fit` is `hf-rnn train` on
texts that are in memory, and what it keeps is the finished folder. scikit-learn is met by its conventions only and is
no dependency; Trainer and datasets are imported when `fit` is called, not before.

Labels become names on the way in, since a configuration knows no others, and become themselves again on the way out.
What they were (`str`, `int` or `bool`, and the dtype of their array) stands in the configuration under
`task_specific_params`, a key of transformers' own, so that it travels with the model wherever that goes.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from ..arguments.run_arguments import Arguments, parse_settings
from ..containment import contained, library_bars_off, one_at_a_time
from ..errors import UserError
from ..folder import FinishedFolder, read_mapping
from ..inference import FastRnn
from ..model_card import CardFacts
from ..model_loading import check_sorts, find_folder, load_model
from ..plain_inference import compute_scores
from ..sharing import list_shared_files
from .labelled_texts import LabelledTexts, LabelType, read_texts
from .settings import check_setting, setting_names, settings_of_command

if TYPE_CHECKING:
    from sklearn.utils import Tags

    from ..hub import PushResult

_LABEL_TYPE = "label_type"  # key of a configuration's `task_specific_params`

_NAME = "rnn-classifier"  # what the model is called until it is saved somewhere


class NotFittedError(UserError, AttributeError):
    """What needs a trained model was asked of a classifier without one; as scikit-learn's error of this name."""


class RnnClassifier:
    """A recurrent text classifier with the interface of scikit-learn.

    It works in `clone`, `cross_val_score`, `GridSearchCV` and pipelines. A setting that is None, as all are at first,
    is left as the recipe has it: it cannot undo what a recipe sets.

    Args:
        settings: The settings of `hf-rnn train` by the names of its flags (see [`setting_names`]), on top of the
            recipe `recipe` (`default` if None; see [`train`]). Those on files are missing: texts go to `fit`, the
            finished folder is written by `save_pretrained`. Besides there are:

            - `random_state` (`int` or `numpy.random.RandomState`, *optional*): Another name of `seed`. A RandomState
              gives a new seed to each `fit`. None takes the recipe's seed: two fits give the same model.
            - `verbose` (`bool`): Whether `fit` shows a bar and a line an epoch on stderr; it does by default.

    Attributes:
        classes_ (`numpy.ndarray`): The labels, sorted, as they were given: `str`, `int` or `bool`. The dtype is that
            of the array given to `fit`, also after saving and loading, but for two things: the width of numpy's
            strings is that of the longest label, and integers or booleans in an array of objects get a dtype of their
            own.
        metrics_ (`dict`): What `metrics.json` of the finished folder holds: scores on the validation split, and the
            numbers of the training itself.

    Raises:
        UserError: For an unknown setting; a bad value is found by `fit`. It is a `ValueError`.

    Example:
        >>> texts = ["what a film", "never again", "loved it", "so dull"] * 20
        >>> labels = [1, 0, 1, 0] * 20
        >>> classifier = RnnClassifier(cell_type="gru", verbose=False).fit(texts, labels)
        >>> classifier.predict(["loved the film"])
        array([1])
        >>> classifier.save_pretrained("film-reviews")
        >>> RnnClassifier.from_pretrained("film-reviews").classes_
        array([0, 1])

        Inside scikit-learn:

        >>> from sklearn.model_selection import GridSearchCV
        >>> search = GridSearchCV(RnnClassifier(verbose=False), {"hidden_size": [32, 64]}, cv=3)
        >>> search.fit(texts, labels).best_params_
    """

    _estimator_type = "classifier"  # scikit-learn before 1.6 looks here

    random_state: Any
    verbose: Any

    def __init__(self, **settings: Any) -> None:
        for name in setting_names():
            setattr(self, name, None)
        self.set_params(**settings)

    # ---- settings ----

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return all settings by name; None stands for what the recipe has.

        Args:
            deep: Of no effect: no setting has settings of its own.
        """
        return {name: getattr(self, name) for name in setting_names()}

    def set_params(self, **settings: Any) -> Self:
        """Change settings; they take effect with the next `fit`.

        Raises:
            UserError: For a name that is no setting; nothing is changed then.
        """
        for name in settings:
            check_setting(name)
        for name, value in settings.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        given = {name: repr(value) for name, value in self.get_params().items() if value is not None}
        # a recipe of all settings, as `from_pretrained` gives it, would fill a page of a notebook
        shown = [f"{name}={text if len(text) <= 100 else f'{text[:97]}...'}" for name, text in given.items()]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __sklearn_tags__(self) -> Tags:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            regressor_tags=None,
            transformer_tags=None,
            input_tags=InputTags(one_d_array=True, two_d_array=False, string=True),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return "_fitted" in vars(self)

    # ---- training ----

    def fit(
        self, texts: Sequence[str], labels: npt.ArrayLike, eval_set: tuple[Sequence[str], npt.ArrayLike] | None = None
    ) -> Self:
        """Train, as `hf-rnn train` would on the same rows.

        The best epoch on the validation rows is kept, and training stops early when they get no better (as the recipe
        says). The device is the Trainer's choice; predicting is done on a CPU, for which [`FastRnn`] is
        written. Random states outside are left as they were.

        Args:
            texts: N texts: a list, an array or a column of a table. An empty one is refused, as in the command's
                files.
            labels: N labels, all `str`, all `int` or all `bool`, of two classes at least.
            eval_set: Texts and labels of the validation rows. Without, a tenth of the rows is held out, stratified by
                label: the same rows that the command would hold out.

        Raises:
            UserError: For a bad setting, or for texts and labels that cannot be used; a text or a label is named by
                its position, from 0. What was learned before is kept then. Also in one of several processes.
        """
        rows = LabelledTexts.read(texts, labels)
        held_out = None if eval_set is None else LabelledTexts.read(*_pair(eval_set), where="eval_set ")
        classes = rows.classes()
        if held_out is None:
            rows.check_enough()
        else:
            held_out.check_known(rows, classes)
        with tempfile.TemporaryDirectory(prefix="hf-rnn-", ignore_cleanup_errors=True) as room:
            folder = FinishedFolder(Path(room) / _NAME)
            settings = settings_of_command(self.get_params(), str(folder.root))
            quiet = self.verbose is not None and not self.verbose
            with one_at_a_time():
                arguments = parse_settings(settings, prog=type(self).__name__)  # which asks accelerate for the device
                card = _train(arguments, rows, held_out, classes, quiet)
            self._adopt(folder, card)
        return self

    def _adopt(self, folder: FinishedFolder, card: CardFacts | None = None) -> None:
        """Take over what a finished folder holds; the folder is not needed any more afterwards."""
        with library_bars_off():
            model, tokenizer = load_model(folder.root)
        check_sorts(str(folder.root), model.config)
        kept = list_shared_files(folder, tokenizer.vocab_files_names.values())
        files = {file.name: file.path.read_bytes() for file in kept}
        names = [model.config.id2label[index] for index in range(model.config.num_labels)]
        record = (getattr(model.config, "task_specific_params", None) or {}).get(_LABEL_TYPE)
        labels = LabelType.from_record(record).restore(names)
        # The columns of predict_proba are in the order of classes_, and scikit-learn wants that sorted.
        self.classes_, columns = np.unique(labels, return_index=True)
        self.metrics_ = read_mapping(folder.metrics, files.get(folder.metrics.name, b"{}"))
        self._fitted = _Fitted(FastRnn(model, tokenizer), columns, files, card)

    # ---- predicting ----

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Return the most probable label of each text, shape `(N,)`.

        Args:
            texts: N texts; an empty one is allowed.

        Raises:
            NotFittedError: Before `fit`.
            UserError: For what is no text, named by its position.
        """
        return self.classes_[self.predict_proba(texts).argmax(axis=1)]

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the probability of each class for each text, shape `(N, C)`, in the order of `classes_`.

        Args:
            texts: N texts; an empty one is allowed.

        Raises:
            NotFittedError: Before `fit`.
            UserError: For what is no text, named by its position.
        """
        fitted = self._get_fitted()
        logits = fitted.runner.text_logits(read_texts(texts, "texts"))
        return compute_scores(fitted.runner.model, logits.double()).numpy()[:, fitted.columns]

    def score(self, texts: Sequence[str], labels: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> float:
        """Return the accuracy: the share of the texts whose label is predicted.

        Args:
            texts: N texts.
            labels: Their true labels, of the type that the classifier was trained with.
            sample_weight: N weights; None weighs all texts alike.

        Raises:
            NotFittedError: Before `fit`.
            UserError: For texts and labels that cannot be used.
        """
        self._get_fitted()
        rows = LabelledTexts.read(texts, labels)
        trained = LabelType.of_values(self.classes_)
        if rows.type.kind != trained.kind:
            raise UserError(f"labels are {rows.type.kind}, those that it was trained with {trained.kind}")
        weights = None if sample_weight is None else np.asarray(sample_weight)
        if weights is not None and not (
            weights.dtype.kind in "biuf"
            and weights.shape == (len(rows.texts),)
            and np.isfinite(weights).all()
            and weights.min() >= 0
            and weights.any()
        ):
            raise UserError(
                f"sample_weight must be {len(rows.texts)} numbers, one a text, none below 0 and not all of them 0, "
                f"found {sample_weight!r:.80}"
            )
        right = [one == other for one, other in zip(self.predict(rows.texts).tolist(), rows.labels, strict=True)]
        return float(np.average(right, weights=weights))

    def _get_fitted(self) -> _Fitted:
        try:
            return vars(self)["_fitted"]
        except KeyError:
            raise NotFittedError(_unfitted(type(self).__name__)) from None

    def __getattr__(self, name: str) -> Any:
        """Say why what `fit` learns is not there; other attributes are missing as everywhere."""
        if name in ("classes_", "metrics_"):
            raise NotFittedError(_unfitted(type(self).__name__))
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # ---- keeping ----

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the finished folder: weights, tokenizer, card, metrics, settings, figures and modelling files.

        It is what `hf-rnn train` leaves, but for checkpoints, and every command takes it. Those of its files that are
        there already are replaced; what else is in the folder stays.

        Args:
            save_directory: Where they go; its last part becomes the model's name in the card.

        Raises:
            NotFittedError: Before `fit`.
            UserError: When a file is in the way, or the files cannot be written.
        """
        from ..model_card.files import write_card
        from ..output_dir import fill

        if not str(save_directory):  # a path would take it for the folder one is in
            raise UserError("save_directory is empty: name a folder, '.' for this one")
        fitted, target = self._get_fitted(), FinishedFolder(Path(save_directory).expanduser())
        if target.root.exists() and not target.root.is_dir():
            raise UserError(f"{target.root} is a file: give a folder")

        def write(folder: FinishedFolder) -> None:
            _write_files(folder.root, fitted.files)
            if fitted.card is not None:
                write_card(folder, dataclasses.replace(fitted.card, name=target.root.resolve().name))

        fill(target, write, "Make room there, or name another folder")

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, revision: str | None = None, token: str | None = None, **settings: Any
    ) -> Self:
        """Load what `save_pretrained`, `push_to_hub` or the command left, ready to predict.

        A model of the command has labels of `str`. Where the folder tells the settings of its run, they become the
        recipe of a new `fit`; the folder is not needed any more for that.

        Args:
            name_or_path: A finished folder, or a repo id of the Hub.
            revision: Branch, tag or commit, for a repo id.
            token: For a private repo; None takes the one that is stored.
            settings: Further settings, such as `use_cpu=True`.

        Raises:
            UserError: When it cannot be found or is no whole classifier of this package.

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
        """Share the finished folder on the Hub, in one commit, as `hf-rnn push` does.

        Args:
            repo_id: `owner/name`.
            options: As for [`push`]: `private`, `revision`, `create_pr`, `dry_run`, `token`, `commit_message`.

        Raises:
            NotFittedError: Before `fit`.
            UserError: When the Hub refuses, or cannot be reached.
        """
        from ..hub import check_request, push

        self._get_fitted()
        check_request(repo_id, options.get("revision"), options.get("create_pr", False))  # it becomes a folder's name
        with tempfile.TemporaryDirectory(prefix="hf-rnn-", ignore_cleanup_errors=True) as room:
            folder = Path(room) / repo_id.split("/")[-1]
            self.save_pretrained(folder)
            with library_bars_off():
                return push(folder, repo_id, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Pickled and copied as settings and the finished folder's files: no device and no live object goes along."""
        state: dict[str, Any] = {"settings": self.get_params()}
        if self.__sklearn_is_fitted__():
            state |= {"files": self._fitted.files, "card": self._fitted.card}
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state["settings"])  # type: ignore[misc]  # a new object, not one that is initialised again
        if "files" not in state:
            return
        with tempfile.TemporaryDirectory(prefix="hf-rnn-", ignore_cleanup_errors=True) as room:
            _write_files(Path(room), state["files"])
            self._adopt(FinishedFolder(Path(room)), state["card"])


@dataclass(frozen=True)
class _Fitted:
    """What a classifier has learned.

    Attributes:
        runner: Model and tokenizer, ready to predict.
        columns: Class ids in the order of `classes_`.
        files: The finished folder, by file name, with `/` between its parts.
        card: The facts of its card; None when it was loaded.
    """

    runner: FastRnn
    columns: np.ndarray
    files: Mapping[str, bytes]
    card: CardFacts | None


def _train(
    arguments: Arguments, rows: LabelledTexts, held_out: LabelledTexts | None, classes: Sequence[Any], quiet: bool
) -> CardFacts | None:
    """Train into the folder that the arguments name; return the facts of its card."""
    import datasets

    from ..data import DataReport, load_named
    from ..run.checks import check_early
    from ..training import train_on

    if arguments.training.world_size > 1:  # each would look for the model in a folder of its own, where one writes it
        raise UserError(
            "RnnClassifier trains in one process, and here are several, as torchrun starts them: train with "
            "hf_rnn.train, and load what it leaves with RnnClassifier.from_pretrained"
        )
    check_early(arguments)
    splits = {"train": rows.as_dataset(classes)}
    if held_out is not None:
        splits["validation"] = held_out.as_dataset(classes)
    with contained(quiet):
        report = DataReport()
        texts = load_named(datasets.DatasetDict(splits), report=report)
        record = {_LABEL_TYPE: dataclasses.asdict(rows.type)}
        return train_on(texts, report, arguments, task_specific_params=record, quiet=quiet).card


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _unfitted(kind: str) -> str:
    return (
        f"this {kind} has learned nothing yet: call fit(texts, labels) first, or load one with {kind}.from_pretrained"
    )


def _pair(eval_set: Any) -> tuple[Any, Any]:
    if not isinstance(eval_set, tuple | list) or len(eval_set) != 2:
        raise UserError(f"eval_set must be (texts, labels), found {eval_set!r:.80}")
    return eval_set[0], eval_set[1]
