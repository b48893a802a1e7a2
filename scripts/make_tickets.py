"""Make a table of support tickets, and those of a later month, for the guide to decisions.

    python scripts/make_tickets.py --data_dir banking --output_dir tickets

`--data_dir` has train.tsv and dev.tsv of BANKING77 (CC BY 4.0), a question and one of 77 intents
per line. They are merged to 12 classes. `train.tsv` has typing mistakes in a tenth of its words,
and 3 % wrong labels. `later.tsv`, made of dev.tsv, has true labels, and questions of three intents
that train.tsv lacks, labelled `new`.
"""

import argparse
import random
from pathlib import Path

CLASSES = {  # the first class with one of these words in the name of an intent
    "new": ("apple_pay", "country_support", "fiat_currency"),
    "lost or stolen": ("lost", "compromised", "swallowed"),
    "virtual cards": ("virtual_card", "disposable"),
    "pin and passcode": ("change_pin", "pin_blocked", "passcode"),
    "fees and rates": ("charge", "exchange", "fee"),
    "refunds": ("refund", "reverted_card", "charged_twice"),
    "cash": ("cash_withdrawal", "wrong_amount", "atm"),
    "top-up": ("top_up", "topping"),
    "card payments": ("card_payment", "direct_debit"),
    "transfers": ("transfer", "beneficiary", "balance", "receiving"),
    "identity and account": ("identity", "verify", "personal", "terminate", "age_limit"),
    "card delivery": ("arrival", "delivery", "order", "physical", "spare", "expire"),
    "card use": ("card", "contactless"),
}
TYPOS = 0.1
WRONG = 0.03


def merge_intents(path: Path) -> list[tuple[str, str]]:
    """Return text and class of each line."""
    rows = []
    for line in path.read_text("utf-8").splitlines():
        text, _, intent = line.rpartition("\t")
        rows.append((text, find_class(intent.lower())))
    return rows


def find_class(intent: str) -> str:
    """Return the first class with a part of an intent's name."""
    for name, parts in CLASSES.items():
        if any(part in intent for part in parts):
            return name
    raise KeyError(intent)


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    """Write a line per row."""
    path.write_text("".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")


def main() -> None:
    """Write train.tsv and later.tsv."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="folder of train.tsv and dev.tsv"
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="folder for train.tsv and later.tsv"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of mistakes and wrong labels; default: 0"
    )
    arguments = parser.parse_args()
    from hf_rnn.data.typos import mistype

    draw = random.Random(arguments.seed)
    names = [name for name in CLASSES if name != "new"]
    train = [
        (mistype(text, TYPOS, draw), label)
        for text, label in merge_intents(arguments.data_dir / "train.tsv")
    ]
    train = [
        (text, draw.choice(names) if draw.random() < WRONG else label)
        for text, label in train
        if label != "new"
    ]
    later = [
        (mistype(text, TYPOS, draw), label)
        for text, label in merge_intents(arguments.data_dir / "dev.tsv")
    ]
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    write_rows(arguments.output_dir / "train.tsv", train)
    write_rows(arguments.output_dir / "later.tsv", later)
    print(
        f"{len(train)} rows of {len(names)} classes to learn from, {len(later)} of the later month"
    )


if __name__ == "__main__":
    main()
