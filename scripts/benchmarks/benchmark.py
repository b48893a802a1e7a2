"""Measure this package against its peers on this machine, both sides in turn in one run.

    python scripts/benchmarks/benchmark.py                # everything
    python scripts/benchmarks/benchmark.py train infer    # some parts
    python scripts/benchmarks/benchmark.py train --data_dir PATH/semeval2016
    python scripts/benchmarks/benchmark.py blocks --json out.json --threads 2

Each part first asserts that both sides compute the same. It prints the median time of each side, and the median of
the ratio pair by pair with its quartiles: above 1, ours is faster. Speed does not depend on the values of weights, so
models are random.
"""

import json
import platform
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import SAMPLE, Parser, positive, run

PARTS = {
    "step": "forward pass and training step against plain padded nn.LSTM; a step of blocks against its products",
    "train": "epochs of RnnTrainer against a loop with nn.LSTM; a step of recipe scratch against a bare loop",
    "infer": "FastRnn against eager torch, ONNX Runtime, TF-IDF, fastText and MiniLM-L6",
    "blocks": "a classifier on english, from text to label, against its eager path and MiniLM-L6",
    "latency": "FastRnn on one text at a time, against pipeline()",
    "language": "a language model: training against nn.LSTM, generation against a GPT of equal size",
}


def main() -> None:
    """Run the parts and print a line per result."""
    parser = Parser(f"{__doc__}\nParts:\n" + "\n".join(f"  {name:9} {text}" for name, text in PARTS.items()))
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts to measure (default: all)")
    parser.add_argument("--repeats", type=positive, default=10, help="pairs of measurements (default: %(default)s)")
    parser.add_argument("--data_dir", type=Path, default=SAMPLE, help="folder of texts (default: data/tweets)")
    parser.add_argument("--threads", type=positive, default=1, help="threads of torch (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    flags = parser.parse_args()
    if unknown := set(flags.parts) - set(PARTS):
        parser.error(f"unknown part: found {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    if flags.repeats < 3:
        parser.error(f"--repeats must be at least 3, found {flags.repeats}")

    import torch
    from benchmarks import parts

    torch.set_num_threads(flags.threads)
    results: list[dict[str, Any]] = []
    for part in flags.parts or PARTS:
        print(f"{part}: {PARTS[part]}", file=sys.stderr)
        for result in getattr(parts, f"measure_{part}")(flags.data_dir, flags.repeats):
            results.append({"part": part, **result})
            low, high = result["ratio_quartiles"]
            print(
                f"{result['name']}: ratio {result['ratio']:.3f} (quartiles {low:.3f} to {high:.3f}), "
                f"ours {result['ours_ms']:.3g} ms, peer {result['peer_ms']:.3g} ms",
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
