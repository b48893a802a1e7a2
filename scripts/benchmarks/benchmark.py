"""Measure this package against plain torch on this machine, both sides in turn in one run.

    python scripts/benchmarks/benchmark.py                # everything
    python scripts/benchmarks/benchmark.py train infer    # some parts
    python scripts/benchmarks/benchmark.py train --data_dir PATH/semeval2016
    python scripts/benchmarks/benchmark.py data --rows 100000
    python scripts/benchmarks/benchmark.py --json out.json --threads 1

Each part first asserts that both sides compute the same: answers, and for training the loss and all gradients of a
batch. It prints the median time of each side, and the median of the ratio pair by pair with its quartiles. Absolute
times drift on a shared machine; the ratios hold. Above 1, ours is faster; for the part `data` the ratio is how many
times as long ours takes.
"""

import json
import platform
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import data, infer, train, vocab
from benchmarks.timing import interleave
from common.command_line import Parser, positive, run

BATCH, EMBEDDING, HIDDEN, VOCABULARY, CLASSES = 64, 300, 128, 3330, 3
PARTS = {
    "infer": "forward pass against plain padded nn.LSTM; FastRnn against eager torch, ONNX Runtime and other models",
    "blocks": "a classifier on english, from text to label, against its eager path and MiniLM-L6",
    "latency": "FastRnn on one text at a time, against pipeline() and the plain model",
    "shapes": "FastRnn against the plain model over cells, widths, layers, lengths and numbers of texts",
    "train": "training step against plain padded nn.LSTM; epochs of RnnTrainer against loops by hand",
    "vocab": "training step at small and large vocabularies, sparse rows against dense",
    "data": "load_tsv against pyarrow.csv",
}


def make_sides() -> tuple[Any, Any, list[dict[str, Any]]]:
    """Return our bi-LSTM classifier, plain padded `nn.LSTM` with the same weights, and batches of 14 to 24 tokens."""
    import torch
    from torch import nn

    from hf_rnn import RnnConfig, RnnForSequenceClassification

    class PlainPadded(nn.Module):
        """The fastest plain model. It reads padding as text, so its answers differ."""

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
        lengths = torch.randint(14, 25, (BATCH,))
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        ids = torch.randint(2, VOCABULARY, mask.shape) * mask + (1 - mask)
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": torch.randint(CLASSES, (BATCH,))})
    with torch.no_grad():  # equal without padding; with padding, ours gives the answer of the text alone
        first = batches[0]
        full = {"input_ids": first["input_ids"][:, :14], "attention_mask": first["attention_mask"][:, :14]}
        torch.testing.assert_close(model.eval()(**full).logits, plain.eval()(**full), atol=1e-5, rtol=1e-4)
        length = int(first["attention_mask"][3].sum())
        alone = model(first["input_ids"][3:4, :length]).logits[0]
        together = model(first["input_ids"], first["attention_mask"]).logits[3]
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    return model, plain, batches


def compare_padding(repeats: int, training: bool) -> dict[str, Any]:
    """Compare the forward pass or the training step of a padding-proof bi-LSTM with plain padded `nn.LSTM`."""
    import torch

    model, plain, batches = make_sides()
    model.train(training), plain.train(training)

    def infer(side: Any) -> None:
        with torch.no_grad():
            for batch in batches:
                side(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

    def step(side: Any) -> None:
        for batch in batches:
            output = side(**batch)
            (output if side is plain else output.loss).backward()
            side.zero_grad()

    call, name = (step, "training step") if training else (infer, "forward")
    return interleave(f"{name}, bi-LSTM, plain padded / ours", lambda: call(model), lambda: call(plain), repeats)


def measure(part: str, flags: Any) -> list[dict[str, Any]]:
    """Run one part."""
    match part:
        case "infer":
            return [compare_padding(flags.repeats, False), *infer.compare_streams(flags.repeats, flags.data_dir)]
        case "blocks":
            return infer.compare_blocks(min(flags.repeats, 5), flags.data_dir)
        case "latency":
            return infer.compare_latency(flags.repeats, flags.data_dir)
        case "shapes":
            return infer.compare_shapes(flags.repeats)
        case "train":
            step = compare_padding(3 if flags.quick else flags.repeats, True)
            return [step, *train.compare(flags.data_dir, flags.quick)]
        case "vocab":
            return vocab.compare_steps(flags.repeats)
    return data.compare(flags.repeats, flags.rows)


def main() -> None:
    """Run the parts and print a line per result."""
    parser = Parser(f"{__doc__}\nParts:\n" + "\n".join(f"  {name:8} {text}" for name, text in PARTS.items()))
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts to measure (default: all)")
    parser.add_argument(
        "--repeats",
        type=int,
        default=40,
        help="pairs of measurements (default: %(default)s); blocks take at most 5, data and shapes 7, vocab a quarter "
        "and at most 10, latency a tenth for each text, epochs are always 5",
    )
    parser.add_argument("--rows", type=positive, default=1_000_000, help="for the part data (default: %(default)s)")
    parser.add_argument("--data_dir", type=Path, help="texts (default: data/tweets; for train: invented ones)")
    parser.add_argument("--quick", action="store_true", help="for the part train: few texts, to see that it runs")
    parser.add_argument("--threads", type=positive, default=1, help="threads of torch (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    flags = parser.parse_args()
    chosen = [name for name in PARTS if name in flags.parts or not flags.parts]
    if unknown := set(flags.parts) - set(PARTS):
        parser.error(f"unknown part: found {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    if flags.repeats < 3:
        parser.error(f"--repeats must be at least 3, found {flags.repeats}")

    import torch

    torch.set_num_threads(flags.threads)
    results: list[dict[str, Any]] = []
    for part in chosen:
        print(f"{part}: {PARTS[part]}", file=sys.stderr)
        for result in measure(part, flags):
            results.append({"part": part, **result})
            low, high = result["ratio_quartiles"]
            print(
                f"{result['name']}: ratio {result['ratio']:.3f} (quartiles {low:.3f} to {high:.3f}), "
                f"ours {result['ours_ms']:.3g} ms, peer {result['peer_ms']:.3g} ms{result.get('note', '')}",
                flush=True,
            )
        if flags.json:
            machine = {"processor": name_processor(), "torch": torch.__version__, "threads": flags.threads}
            flags.json.write_text(json.dumps({**machine, "results": results}, indent=2) + "\n", encoding="utf-8")


def name_processor() -> str:
    """Return the model name of this machine's processor."""
    path = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)", path.read_text(), re.MULTILINE) if path.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    run(main)
