"""The models of reproduce_results.py that are not ours: the commonest class, linear ones, fastText, encoders.

One that has settings to choose chooses them on the validation split as the recipes did, by macro-F1.
"""

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from results_texts import Learned, Texts, clock, score

STRENGTHS = (0.3, 1.0, 3.0, 10.0)  # C of logistic regressions


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
        import torch

        from hf_rnn.training.distillation.logits import compute_answers

        models = [member.load() for member in teachers.members]
        classes = teachers.members[0].align(texts.names, teacher_labels)

        def classify(some: Sequence[str]) -> Any:
            asked = zip(teachers.members, models, strict=True)
            logits = [torch.from_numpy(compute_answers(member, model, some)) for member, model in asked]
            return np.asarray(sum(one.log_softmax(dim=1) for one in logits))[:, classes].argmax(axis=1)

        files = [path for member in teachers.members for path in member.folder.iterdir()]
        size = sum(path.stat().st_size for path in files if path.suffix in (".safetensors", ".json"))
        return Learned(classify, float("nan"), sum(model.num_parameters() for model in models), size)

    return learn
