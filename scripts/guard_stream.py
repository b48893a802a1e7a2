"""Let a language model write while a streaming classifier reads along, and stop it at a label.

    hf-rnn train --task causal-lm --data_dir texts.txt --output_dir out/writer
    hf-rnn train labelled.csv out/guard --streaming
    python scripts/guard_stream.py --writer out/writer --guard out/guard --label unsafe --threshold 0.9

The guard reads each piece as it is written. It keeps a state, so that a piece costs the same at any length of a text.
"""

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_rnn import FastRnn


def guard(pieces: Iterable[str], reader: "FastRnn", label: str, threshold: float) -> bool:
    """Print pieces until the text so far has the label with at least this score; return whether it had."""
    stream = reader.stream()
    for piece in pieces:
        print(piece, end="", flush=True)
        answer = stream.feed(piece)
        if answer["label"] == label and answer["score"] >= threshold:
            return True
    return False


def main() -> None:
    """Write a text under guard."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writer", required=True, help="folder of a language model")
    parser.add_argument("--guard", required=True, help="folder of a classifier, trained with --streaming")
    parser.add_argument("--label", required=True, help="label at which the writer is stopped")
    parser.add_argument("--threshold", type=float, default=0.9, help="least score of the label")
    parser.add_argument("--prompt", default="\n", help="start of the text")
    parser.add_argument("--max_new_tokens", type=int, default=200, help="most tokens to write")
    parser.add_argument("--seed", type=int, default=0, help="draws the tokens")
    arguments = parser.parse_args()
    from hf_rnn import FastRnn
    from hf_rnn.inference.generation import TextGenerator
    from hf_rnn.inference.predictor import load_engine

    reader = FastRnn.from_pretrained(arguments.guard)
    if arguments.label not in reader.config.id2label.values():
        parser.error(f"--label must be one of {', '.join(reader.config.id2label.values())}")
    engine, tokenizer = load_engine(arguments.writer)
    ids = tokenizer([arguments.prompt])["input_ids"][0]
    written = TextGenerator(engine.model, tokenizer).stream(ids, arguments.max_new_tokens, seed=arguments.seed)
    stopped = guard(written, reader, arguments.label, arguments.threshold)
    print(f"\n[stopped: {arguments.label}]" if stopped else "")


if __name__ == "__main__":
    main()
