"""Compare taggers on the validation split: a linear CRF, a fine-tuned transformer, and a recipe of this package.

    python scripts/results/measure_taggers.py --data_dir DIR --transformer sentence-transformers/all-MiniLM-L6-v2
    python scripts/results/measure_taggers.py --data_dir DIR --seeds 0 1 --flags "--learning_rate 1e-3"

DIR has train.conll and dev.conll. The score is the F1 of entities, or the accuracy of other tags. Seconds are
processor time of the training on one thread. The linear CRF is sklearn-crfsuite with the words at places -2 to 2,
affixes, shapes, and L1 and L2 penalties of 0.1. The transformer is trained for `--epochs` with learning rate 1e-4.
"""

import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import Parser, positive, run


def main() -> int:
    """Print a row of a table for each tagger."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with train.conll and dev.conll")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="seeds of the recipe (default: 0)")
    parser.add_argument("--flags", default="", help="further flags of hf-rnn train, in one argument")
    parser.add_argument("--transformer", help="model to fine-tune (default: no transformer)")
    parser.add_argument("--epochs", type=positive, default=3, help="epochs of the transformer (default: %(default)s)")
    args = parser.parse_args()

    import torch

    from hf_rnn import load_conll

    torch.set_num_threads(1)
    sentences = load_conll(args.data_dir)
    rows = {"sklearn-crfsuite": [train_linear(sentences)]}
    if args.transformer:
        rows[f"{args.transformer}, {args.epochs} epochs"] = [
            train_transformer(sentences, args.transformer, args.epochs)
        ]
    flags = ["--task", "token-classification", "--data_dir", str(args.data_dir), *args.flags.split()]
    rows[f"hf-rnn {args.flags}".strip()] = [train_recipe(flags, seed) for seed in args.seeds]
    print("| tagger | score | seconds | seeds |\n|---|---|---|---|")
    for name, found in ((name, found) for name, found in rows.items() if found):
        scores, seconds = zip(*found, strict=True)
        spread = f" ± {statistics.stdev(scores):.3f}" if len(found) > 1 else ""
        print(f"| {name} | {statistics.mean(scores):.3f}{spread} | {statistics.mean(seconds):.0f} | {len(found)} |")
    return 0


def score(predicted: list[list[int]], tags: list[list[int]], split: Any) -> float:
    """Return the score of predicted tags, all by number."""
    from hf_rnn.evaluation.scores import tagging_metrics

    return tagging_metrics(predicted, tags, split.features["ner_tags"].feature.names)["f1"]


def describe(words: list[str], place: int) -> dict[str, Any]:
    """Return the features of a word for the linear CRF."""
    found: dict[str, Any] = {"first": place == 0, "last": place == len(words) - 1}
    for offset in range(-2, 3):
        if 0 <= place + offset < len(words):
            word = words[place + offset]
            found[f"{offset}:word"] = word.lower()
            found[f"{offset}:case"] = f"{word.istitle()}{word.isupper()}"
    word = words[place]
    for size in range(1, 5):
        found |= {f"prefix{size}": word[:size].lower(), f"suffix{size}": word[-size:].lower()}
    shape = re.sub("[A-Z]", "X", re.sub("[a-z]", "x", re.sub("[0-9]", "9", word)))
    return found | {"shape": shape, "digit": "9" in shape, "hyphen": "-" in word}


def train_linear(sentences: Any) -> tuple[float, float]:
    """Return score and seconds of sklearn-crfsuite."""
    from sklearn_crfsuite import CRF

    names = sentences["train"].features["ner_tags"].feature.names
    data = {
        split: [[describe(words, place) for place in range(len(words))] for words in sentences[split]["tokens"]]
        for split in ("train", "validation")
    }
    start = time.process_time()
    model = CRF(algorithm="lbfgs", c1=0.1, c2=0.1, max_iterations=100, all_possible_transitions=True)
    model.fit(data["train"], [[names[tag] for tag in tags] for tags in sentences["train"]["ner_tags"]])
    seconds = time.process_time() - start
    predicted = [[names.index(tag) for tag in tags] for tags in model.predict(data["validation"])]
    return score(predicted, sentences["validation"]["ner_tags"], sentences["validation"]), seconds


def train_transformer(sentences: Any, name: str, epochs: int) -> tuple[float, float]:
    """Return score and seconds of a fine-tuned transformer with a linear layer."""
    import numpy as np
    from transformers import (
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from hf_rnn import encode_tagged

    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(name)
    labels = len(sentences["train"].features["ner_tags"].feature.names)
    model = AutoModelForTokenClassification.from_pretrained(name, num_labels=labels)
    data = {split: encode_tagged(rows, tokenizer, 256) for split, rows in sentences.items()}
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, num_train_epochs=epochs, learning_rate=1e-4, per_device_train_batch_size=16, warmup_steps=0.1,
            train_sampling_strategy="group_by_length", save_strategy="no", report_to="none", use_cpu=True, seed=0,
            per_device_eval_batch_size=64,
        )  # fmt: skip
        collator = DataCollatorForTokenClassification(tokenizer)
        trainer = Trainer(model, args, collator, data["train"], data["validation"])
        start = time.process_time()
        trainer.train()
        seconds = time.process_time() - start
        output = trainer.predict(data["validation"])
    best = np.argmax(output.predictions, axis=-1)
    gold = output.label_ids  # in the order of the predictions, by length
    predicted, tags = (
        [row[mask].tolist() for row, mask in zip(rows, gold != -100, strict=True)] for rows in (best, gold)
    )
    return score(predicted, tags, sentences["validation"]), seconds


def train_recipe(flags: list[str], seed: int) -> tuple[float, float]:
    """Return score and seconds of a run of this package."""
    from hf_rnn import train
    from hf_rnn.training.settings import make_parser

    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        more = ["--seed", str(seed), "--output_dir", folder, "--disable_tqdm", "true", "--no_baselines"]
        metrics = train(**make_parser("hf-rnn train").parse_flags([*flags, *more])).metrics
    print(seed, metrics["validation"]["f1"], file=sys.stderr)
    return metrics["validation"]["f1"], time.process_time() - start


if __name__ == "__main__":
    run(main)
