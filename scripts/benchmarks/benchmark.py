"""Measure this package against plain torch on this machine, both sides interleaved in one run.

    python scripts/benchmark.py                # everything
    python scripts/benchmark.py train infer    # some parts
    python scripts/benchmark.py train --data_dir PATH/semeval2016
    python scripts/benchmark.py data --rows 100000
    python scripts/benchmark.py --json out.json --threads 1

Each part asserts that both sides do the same before they are timed: answers, and in training the loss and all
gradients of a batch; train and vocab also print what was learned. Each warms up, takes the two sides in turn, and
prints the median of each side and of the ratio pair by pair with its quartiles. Absolute times drift on a shared
machine; the ratios hold. A ratio above 1 says that ours is faster; of the part data it says how many times as long
ours takes.
"""

import json
import platform
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark_data
import benchmark_infer
import benchmark_shapes
import benchmark_train
import benchmark_vocab
import command_line
from benchmark_timing import interleave

BATCH, EMBEDDING, HIDDEN, VOCABULARY, CLASSES = 64, 300, 128, 3330, 3
FEWEST_ROWS = 200  # of texts to train on: with less an epoch has no steps to take the times of
PARTS: dict[str, Callable[..., list[dict[str, Any]]]] = {}


def part(function: Callable[..., list[dict[str, Any]]]) -> Callable[..., list[dict[str, Any]]]:
    """Make a function a part of the benchmark, under its name."""
    PARTS[function.__name__] = function
    return function


def make_sides() -> tuple[Any, Any, list[dict[str, Any]]]:
    """Our bi-LSTM classifier, the same on plain padded `nn.LSTM` with the same weights, and batches like tweets."""
    import torch
    from torch import nn

    from hf_rnn import RnnConfig, RnnForSequenceClassification

    class PlainPadded(nn.Module):
        """The fastest plain way: it reads the padding as text, backwards even first, and so answers differently."""

        def __init__(self, model: RnnForSequenceClassification) -> None:
            super().__init__()
            self.embedding = nn.Embedding.from_pretrained(model.rnn.embedding.weight.detach().clone(), freeze=False)
            self.lstm = nn.LSTM(EMBEDDING, HIDDEN, batch_first=True, bidirectional=True)
            for number, suffix in enumerate(("", "_reverse")):
                for name, weight in model.rnn.layers[0].directions[number].cell.named_parameters():
                    getattr(self.lstm, name + suffix).data.copy_(weight.data)
            self.classifier = nn.Linear(4 * HIDDEN, CLASSES)
            self.classifier.load_state_dict(model.classifier.state_dict())

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> Any:
            states, _ = self.lstm(self.embedding(input_ids))
            real = attention_mask[:, :, None]
            mean = (states * real).sum(dim=1) / attention_mask.sum(dim=1, keepdim=True)
            highest = states.masked_fill(real == 0, float("-inf")).amax(dim=1)
            logits = self.classifier(torch.cat([mean, highest], dim=-1))
            return logits if labels is None else nn.functional.cross_entropy(logits, labels)

    torch.manual_seed(0)
    model = RnnForSequenceClassification(
        RnnConfig(vocab_size=VOCABULARY, embedding_size=EMBEDDING, hidden_size=HIDDEN, num_labels=CLASSES)
    )
    plain = PlainPadded(model)
    batches = []
    for _ in range(4):
        lengths = torch.randint(14, 25, (BATCH,))  # a bucketed batch of tweets: 19 tokens, some padding
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        ids = torch.randint(2, VOCABULARY, mask.shape) * mask + (1 - mask)
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": torch.randint(CLASSES, (BATCH,))})
    with torch.no_grad():  # where there is no padding, both must agree; where there is, ours is the text alone
        first = batches[0]
        full = {"input_ids": first["input_ids"][:, :14], "attention_mask": first["attention_mask"][:, :14]}
        torch.testing.assert_close(model.eval()(**full).logits, plain.eval()(**full), atol=1e-5, rtol=1e-4)
        length = int(first["attention_mask"][3].sum())
        alone = model(first["input_ids"][3:4, :length]).logits[0]
        together = model(first["input_ids"], first["attention_mask"]).logits[3]
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    return model, plain, batches


@part
def infer(repeats: int, data_dir: Path | None) -> list[dict[str, Any]]:
    """Forward pass of a padding-proof bi-LSTM against plain padded nn.LSTM; FastRnn against its peers."""
    import torch

    model, plain, batches = make_sides()

    def run(side: Any) -> None:
        with torch.no_grad():
            for batch in batches:
                side(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

    padding = interleave("forward, bi-LSTM, plain padded / ours", lambda: run(model), lambda: run(plain), repeats)
    return [padding, *benchmark_infer.infer(repeats, data_dir)]


@part
def latency(repeats: int, data_dir: Path | None) -> list[dict[str, Any]]:
    """One text at a time, from text to label against pipeline() and from ids to logits against the plain model."""
    return benchmark_infer.latency(repeats, data_dir)


@part
def shapes(repeats: int) -> list[dict[str, Any]]:
    """FastRnn against the plain model over other cells, widths, layers, lengths and numbers of texts."""
    return benchmark_shapes.compare(repeats)


@part
def train(repeats: int, data_dir: Path | None, quick: bool) -> list[dict[str, Any]]:
    """Training step (forward, backward) of the same two; whole epochs of RnnTrainer against loops by hand."""
    model, plain, batches = make_sides()
    model.train(), plain.train()

    def run(side: Any) -> None:
        for batch in batches:
            output = side(**batch)
            (output if side is plain else output.loss).backward()
            side.zero_grad()

    what = "training step, bi-LSTM, plain padded / ours"
    step = interleave(what, lambda: run(model), lambda: run(plain), 3 if quick else repeats)
    return [step, *benchmark_train.train(data_dir, quick)]


@part
def vocab(repeats: int, data_dir: Path | None) -> list[dict[str, Any]]:
    """Training steps at vocabularies of thousands and of a million, sparse rows against dense, and what is learned."""
    return [*benchmark_vocab.compare_steps(repeats), *benchmark_vocab.compare_quality(data_dir)]


@part
def data(repeats: int, rows: int) -> list[dict[str, Any]]:
    """Reading a TSV file with load_tsv, as a stream and as a table, against pyarrow.csv streaming on one thread."""
    return benchmark_data.compare(repeats, rows)


def main() -> None:
    """Run the parts asked for."""
    parser = command_line.Parser(__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(PARTS)} or all (default)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=40,
        help="pairs of measurements (default: %(default)s); data and shapes take at most 7, vocab a quarter and "
        "at most 10, latency a tenth for each text, epochs are always 5",
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the part data (default: %(default)s)")
    parser.add_argument(
        "--data_dir",
        type=Path,
        help="texts of infer, latency and vocab (default: those of data/tweets), and of train (default: invented)",
    )
    parser.add_argument("--quick", action="store_true", help="of the part train: only to see that it runs")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--plot", type=Path, help="also train models and peers, and draw macro-recall against texts/s")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS) - {"all"}:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)} and all")
    chosen = [name for name in PARTS if name in arguments.parts or "all" in arguments.parts or not arguments.parts]
    if arguments.data_dir and not arguments.plot and not any("data_dir" in settings_of(name) for name in chosen):
        parser.error(f"--data_dir {arguments.data_dir} is of no use to {' and '.join(chosen)}: leave it out")
    if arguments.repeats < 3:
        parser.error("--repeats must be at least 3")
    if arguments.rows < 100:
        parser.error("--rows must be at least 100")
    if arguments.threads < 1:
        parser.error("--threads must be at least 1")
    for folder in [path.parent for path in (arguments.json, arguments.plot) if path] + [arguments.data_dir or Path()]:
        if not folder.is_dir():
            parser.error(f"there is no folder {folder}")
    parser.check_writable(arguments.json, arguments.plot)
    if arguments.plot and arguments.plot.suffix not in (".png", ".svg", ".pdf"):
        parser.error(f"--plot {arguments.plot} must end in .png, .svg or .pdf")
    if arguments.plot:
        import results_report  # which imports the package: --help need not wait

        if missing := results_report.missing():
            parser.error(f"--plot needs {', '.join(missing)}: pip install '.[bench]'")

    import torch

    from hf_rnn.utils.errors import UserError

    torch.set_num_threads(arguments.threads)
    machine = {"processor": processor(), "torch": torch.__version__, "threads": arguments.threads}
    results: list[dict[str, Any]] = []
    if arguments.data_dir:
        try:
            check_texts(arguments.data_dir)
        except UserError as error:
            parser.refuse(error)
    for name in chosen:
        print(f"{name}: {PARTS[name].__doc__}", file=sys.stderr)
        settings = {setting: getattr(arguments, setting) for setting in settings_of(name)}
        try:
            measured = PARTS[name](arguments.repeats, **settings)
        except UserError as error:  # of the data
            parser.refuse(error)
        for result in measured:
            results.append({"part": name, **result})
            low, high = result["ratio_quartiles"]
            print(
                f"{result['what']}: ratio {result['ratio']:.3f} (quartiles {low:.3f} to {high:.3f}), "
                f"ours {result['ours_ms']:.3g} ms, peer {result['peer_ms']:.3g} ms{result.get('note', '')}"
            )
        if arguments.json:  # after each part: what is measured is not lost with a later one
            content = json.dumps({**machine, "results": results}, indent=2) + "\n"
            arguments.json.write_text(content, encoding="utf-8")
    if arguments.plot:
        draw(arguments.data_dir or command_line.SAMPLE, arguments.plot)


def settings_of(name: str) -> list[str]:
    """The flags that a part takes, beside --repeats."""
    return {"data": ["rows"], "shapes": [], "train": ["data_dir", "quick"]}.get(name, ["data_dir"])


def check_texts(folder: Path) -> None:
    """Refuse texts before hours of measuring that one of the parts could not take.

    Raises:
        UserError: For a folder that cannot be read, or with few rows.
    """
    from datasets import disable_progress_bars

    from hf_rnn import load_tsv
    from hf_rnn.utils.errors import UserError

    disable_progress_bars()
    splits = load_tsv(folder)
    if (rows := len(splits["train"])) < FEWEST_ROWS:
        raise UserError(f"{folder} has {rows} rows to train on: there must be {FEWEST_ROWS} or more")


def processor() -> str:
    """Name this machine's processor as well as it is known."""
    told = Path("/proc/cpuinfo")  # elsewhere than on Linux the library knows
    names = re.findall(r"^model name\s*: (.+)", told.read_text(), re.MULTILINE) if told.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def draw(data_dir: Path, path: Path) -> None:
    """Train each model once and draw what it reaches, and how fast."""
    import reproduce_results
    import results_models
    import results_report
    import results_texts

    texts = results_texts.Texts(data_dir, "none")
    with tempfile.TemporaryDirectory() as folder:
        chosen = results_models.models(None, None, Path(folder))
        results = reproduce_results.compare(texts, chosen, seeds=1, rows=Path(folder))
    print(results_report.table(results, texts.names), end="")
    results_report.figure(results, texts.title(), path)


if __name__ == "__main__":
    command_line.run(main)
