"""What a linear model makes of the same rows: TF-IDF over words and word pairs, logistic regression.

    pip install '.[baselines]'
    python scripts/linear_baseline.py --data_dir DIR

The strength of regularisation is chosen on the validation split, as the recipes' settings were; the cards of trained
models hold the same model with C = 1. Prints a Markdown table.
"""

from pathlib import Path

import command_line

STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)


def main() -> None:
    """Fit with and without class weights and print both."""
    parser = command_line.Parser(__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with train.tsv and dev.tsv")
    parser.add_max_bad_rows()
    arguments = parser.parse_args()

    from hf_rnn import classification_metrics, load_tsv
    from hf_rnn.evaluation.baselines import make_linear_model
    from hf_rnn.utils.errors import UserError

    try:
        data = load_tsv(arguments.data_dir, max_bad_rows=arguments.max_bad_rows)
        make_linear_model()
    except UserError as error:
        parser.refuse(error)
    names = data["train"].features["label"].names
    train, validation = data["train"][:], data["validation"][:]
    print("| class weights | C | accuracy | macro_recall | macro_f1 |\n|---|---|---|---|---|")
    for weights in (None, "balanced"):
        rows = []
        for strength in STRENGTHS:
            model = make_linear_model(strength, weights).fit(train["text"], train["label"])
            metrics = classification_metrics(model.predict(validation["text"]), validation["label"], names)
            rows.append((metrics["macro_f1"], strength, metrics))
        _, strength, best = max(rows, key=lambda row: row[0])
        print(
            f"| {weights or 'none'} | {strength} | {best['accuracy']:.3f} | {best['macro_recall']:.3f} "
            f"| {best['macro_f1']:.3f} |"
        )


if __name__ == "__main__":
    command_line.run(main)
