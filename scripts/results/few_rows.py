"""Classifiers from few labelled rows: frozen vectors with logistic regression, and `english` fine-tuned.

    pip install '.[bench]' 'model2vec[distill]'
    python scripts/results/few_rows.py --data_dir DIR --rows 16 64 --draws 10

Each draw takes the same number of random rows of each class. The strength of a logistic regression is chosen by
cross-validation on these rows. Dev rows are only scored. Prints mean and standard deviation over the draws.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import Parser, positive, run
from results import models

VECTORS = {
    "`english`, frozen": models.load_english,
    "MiniLM-L6, frozen": models.load_minilm,
    "model2vec of MiniLM-L6": models.distill_model2vec,
}
TUNED = "`english`, fine-tuned"


def main() -> None:
    """Draw, learn, and print a Markdown table."""
    parser = Parser(__doc__)
    parser.add_data_dir(required=True)
    parser.add_argument("--rows", type=positive, nargs="+", default=[16, 64], help="rows per class (default: 16 64)")
    parser.add_argument("--draws", type=positive, default=10, help="default: %(default)s")
    parser.add_argument("--dev_rows", type=positive, help="score this number of random dev rows (default: all)")
    parser.add_argument("--only", action="append", choices=[*VECTORS, TUNED], help="a row; may be repeated")
    flags = parser.parse_args()

    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.model_selection import GridSearchCV

    from hf_rnn import RnnClassifier

    torch.set_num_threads(1)
    data = models.Texts(flags.data_dir, "none", flags.max_bad_rows)
    texts, labels = np.array(data.texts, dtype=object), np.array(data.labels)
    random = np.random.default_rng(0)
    dev = random.permutation(len(data.dev_texts))[: flags.dev_rows]
    dev_texts, wanted = np.array(data.dev_texts, dtype=object)[dev], np.array(data.dev_labels)[dev]
    draws = []
    for _ in range(flags.draws):
        by_class = [random.permutation(np.flatnonzero(labels == label)) for label in range(len(data.names))]
        draws.append([np.concatenate([own[:count] for own in by_class]) for count in flags.rows])
    print(f"| model | {' | '.join(f'{rows} rows a class: accuracy, macro-F1' for rows in flags.rows)} |")
    print(f"|---|{'---|' * len(flags.rows)}")
    for name in flags.only or [*VECTORS, TUNED]:
        scores = np.empty((flags.draws, len(flags.rows), 2))
        if name != TUNED:
            with tempfile.TemporaryDirectory() as scratch:
                encode = VECTORS[name](Path(scratch))[0]
                used = np.unique(np.concatenate([rows for draw in draws for rows in draw]))
                place = {row: number for number, row in enumerate(used)}
                known, asked = (unit(np.asarray(encode(list(some)))) for some in (texts[used], dev_texts))
        for number, draw in enumerate(draws):
            for column, rows in enumerate(draw):
                if name == TUNED:
                    model = RnnClassifier(random_state=number, verbose=False).fit(texts[rows].tolist(), labels[rows])
                    found = model.predict(dev_texts.tolist())
                else:
                    model = GridSearchCV(LogisticRegression(max_iter=1000), {"C": [0.3, 1, 3, 10, 30]}, cv=4)
                    found = model.fit(known[[place[row] for row in rows]], labels[rows]).predict(asked)
                macro = f1_score(wanted, found, average="macro")
                scores[number, column] = accuracy_score(wanted, found), macro
        pairs = zip(scores.mean(axis=0), scores.std(axis=0), strict=True)
        cells = [", ".join(f"{mean:.3f} ± {std:.3f}" for mean, std in zip(*pair, strict=True)) for pair in pairs]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def unit(vectors: Any) -> Any:
    """Scale rows to length 1."""
    return vectors / (vectors**2).sum(axis=1, keepdims=True).clip(1e-12) ** 0.5


if __name__ == "__main__":
    run(main)
