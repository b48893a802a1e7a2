"""What a linear model makes of the same rows: TF-IDF over words and word pairs, logistic regression.

    pip install scikit-learn
    python scripts/linear_baseline.py --data_dir DIR

The strength of regularisation is chosen on the validation split, as the recipes' settings were. Prints a Markdown
table.
"""

import argparse
from pathlib import Path

STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)


def main() -> None:
    """Fit with and without class weights and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with train.tsv and dev.tsv")
    arguments = parser.parse_args()

    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    from hf_rnn import classification_metrics, load_tsv
    from hf_rnn.errors import UserError

    try:
        data = load_tsv(arguments.data_dir)
    except UserError as error:
        parser.error(str(error))
    names = data["train"].features["label"].names
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True)
    train = vectorizer.fit_transform(data["train"]["text"])
    validation = vectorizer.transform(data["validation"]["text"])
    print("| class weights | C | accuracy | macro_recall | macro_f1 |\n|---|---|---|---|---|")
    for weights in (None, "balanced"):
        rows = []
        for strength in STRENGTHS:
            model = LogisticRegression(C=strength, class_weight=weights, max_iter=1000)
            predicted = model.fit(train, data["train"]["label"]).predict(validation)
            metrics = classification_metrics(predicted, data["validation"]["label"], names)
            rows.append((metrics["macro_f1"], strength, metrics))
        _, strength, best = max(rows, key=lambda row: row[0])
        print(
            f"| {weights or 'none'} | {strength} | {best['accuracy']:.3f} | {best['macro_recall']:.3f} "
            f"| {best['macro_f1']:.3f} |"
        )


if __name__ == "__main__":
    main()
