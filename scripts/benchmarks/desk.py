"""Measure near repeats, and the test of `hf-rnn compare`, on files of texts and labels.

    python scripts/benchmarks/desk.py repeats emotion/train.tsv suite/banking/train.tsv
    python scripts/benchmarks/desk.py compare emotion/train.tsv suite/banking/train.tsv

`repeats` adds 1,000 rows typed again, a tenth of their words mistyped: it prints the share that is
found, and the share of the pairs of these rows that join different texts. `compare` splits the rows
into random halves: it prints how often they differ, and how often they do when a category is new in
the second half, with 2, 5 and 10 % of its rows; the test is that of `hf-rnn compare`.
"""

import argparse
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

TYPED_AGAIN = 1_000
MISTYPED = 0.1  # share of words
SHARES = (0.0, 0.02, 0.05, 0.1)  # share of rows with a new category
LEVEL = 0.05


def measure_repeats(rows: list[tuple[str, str]], draws: int) -> dict[str, Any]:
    """Return recall and false share of the pairs of rows that are typed again, and seconds."""
    import pandas as pd

    from hf_rnn.data.near_repeats import group_near_repeats

    texts = list(dict.fromkeys(text for text, _ in rows))
    groups = group_near_repeats(texts)
    sums = pd.DataFrame(type_again(texts, groups, seed) for seed in range(draws)).sum()
    return {
        "found": round(sums["right"] / sums["typed"], 4),
        "false": round(sums["false"] / max(sums["pairs"], 1), 4),
        "seconds": round(sums["seconds"] / draws, 1),
    }


def type_again(texts: list[str], groups: "np.ndarray", seed: int) -> dict[str, float]:
    """Return numbers of rows typed again, of pairs with them, right and false ones; and seconds."""
    import numpy as np

    from hf_rnn.data.near_repeats import find_near_repeats
    from hf_rnn.data.typos import mistype

    draw = random.Random(seed)
    sources = draw.sample(range(len(texts)), min(TYPED_AGAIN, len(texts)))
    copies = {source: mistype(texts[source], MISTYPED, draw) for source in sources}
    changed = [source for source in sources if copies[source] != texts[source]]
    start = time.monotonic()
    found = find_near_repeats([*texts, *(copies[source] for source in changed)])
    seconds = time.monotonic() - start

    is_copy = found.second >= len(texts)
    origin = np.array([*range(len(texts)), *changed])
    first = origin[found.first[is_copy]]
    second = origin[found.second[is_copy]]
    return {
        "typed": len(changed),
        "pairs": is_copy.sum(),
        "right": (first == second).sum(),
        "false": (groups[first] != groups[second]).sum(),
        "seconds": seconds,
    }


def measure_compare(rows: list[tuple[str, str]], draws: int) -> dict[str, Any]:
    """Return the share of draws that differ, by the share of a new category in the second half."""
    import numpy as np

    from hf_rnn.quality.compare import measure_p_value
    from hf_rnn.quality.vectors import encode_texts

    vectors = encode_texts([text for text, _ in rows]).astype(np.float32)
    labels = np.array([label for _, label in rows])
    alarms = Counter[float]()
    for seed in range(draws):
        draw = np.random.default_rng(seed)
        is_member = labels == draw.choice(np.unique(labels))
        others = draw.permutation(np.flatnonzero(~is_member))
        old, new = np.array_split(others, 2)
        members = draw.choice(np.flatnonzero(is_member), len(new))
        for share in SHARES:
            size = int(share * len(new))
            mixed = np.concatenate([members[:size], new[size:]])
            alarms[share] += measure_p_value(vectors[old], vectors[mixed], draw) < LEVEL
    return {f"{share:.0%} new": alarms[share] / draws for share in SHARES} | {"draws": draws}


def main() -> None:
    """Print a line of JSON for each file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("repeats", "compare"))
    parser.add_argument("files", nargs="+", type=Path, help="a text and a label per line")
    parser.add_argument("--draws", type=int, default=20)
    arguments = parser.parse_args()
    measure = {"repeats": measure_repeats, "compare": measure_compare}[arguments.what]
    for path in arguments.files:
        lines = [line.rpartition("\t") for line in path.read_text("utf-8").splitlines()]
        result = measure([(text, label) for text, _, label in lines], arguments.draws)
        print(json.dumps({"file": str(path)} | result), flush=True)


if __name__ == "__main__":
    main()
