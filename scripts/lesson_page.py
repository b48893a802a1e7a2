"""Build the live page of the course: train a small LSTM, export it for browsers, add a page.

python scripts/lesson_page.py --output_dir out/lesson_page
python -m http.server --directory out/lesson_page/web

`lesson.html` needs no other file: `scripts/lesson_page.html` is a copy of it, to open in a browser.
"""

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
UNITS = 12
WORD = r"[\w'’]+|[^\w\s]"  # as `cut` of the template
TEXTS = ("ok", "so happy today")


def round_weights(values: Any) -> Any:
    """Return a tensor as nested lists of numbers with four digits after the point."""
    return (
        [round(number, 4) for number in values.tolist()]
        if values.ndim == 1
        else list(map(round_weights, values))
    )


def build_page(folder: Path) -> Path:
    """Train a small LSTM on the sample tweets, export it, and write `web/lesson.html`."""
    import lesson_helpers as course
    import torch

    import hf_rnn
    from hf_rnn.export import export

    data = course.Tweets().data.map(
        lambda row: {"text": " ".join(re.findall(WORD, row["text"].lower()))}
    )
    settings: dict[str, Any] = {
        "cell_type": "lstm",
        "bidirectional": False,
        "pooling": "last",
        "normalizer": "none",
    }
    settings |= {
        "embedding_size": UNITS,
        "hidden_size": UNITS,
        "learning_rate": 0.01,
        "num_train_epochs": 12,
    }
    hf_rnn.train(
        data, folder, recipe="scratch", baselines=False, disable_tqdm=True, seed=0, **settings
    )
    export(folder, web=True)
    web = folder / "web"
    model: Any = hf_rnn.RnnForSequenceClassification.from_pretrained(folder)
    vocabulary = json.loads((web / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    W, U, b, c = model.rnn.layers[0].directions[0].cell.parameters()
    torch.manual_seed(0)
    rnn: Any = torch.nn.RNN(8, 8)
    lstm: Any = torch.nn.LSTM(8, 8)
    with torch.no_grad():
        # the page sets the forget bias
        lstm.bias_ih_l0[8:16] = 0
        lstm.bias_hh_l0[8:16] = 0
        drift = [rnn(torch.randn(len(text.split()), 1, 8))[1].flatten() for text in TEXTS]
        content = {
            "units": UNITS, "labels": list(model.config.id2label.values()), "vocabulary": vocabulary,
            "table": model.rnn.embedding.weight, "W": W, "U": U, "b": b + c,
            "A": model.classifier.weight, "a": model.classifier.bias,
            "start": {"table": torch.randn(40, 8), "W": lstm.weight_ih_l0, "U": lstm.weight_hh_l0, "b": lstm.bias_ih_l0 + lstm.bias_hh_l0},
            "drift": {"texts": TEXTS, "states": drift, "U": rnn.weight_hh_l0, "b": rnn.bias_ih_l0 + rnn.bias_hh_l0},
        }  # fmt: skip
    page = (HERE / "lesson_page_template.html").read_text("utf-8").replace("{{units}}", str(UNITS))
    text = json.dumps(content, default=round_weights, ensure_ascii=False, separators=(",", ":"))
    (web / "lesson.html").write_text(
        page.replace("{{model}}", text.replace("<", "\\u003c")), encoding="utf-8"
    )
    return web / "lesson.html"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path("out/lesson_page"), help="folder of model and page"
    )
    arguments = parser.parse_args()
    page = build_page(arguments.output_dir)
    shutil.copyfile(page, HERE / "lesson_page.html")
    print(page)
