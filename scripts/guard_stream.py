"""Let a language model write while a streaming classifier reads along, and stop it at a label.

    hf-rnn train --task causal-lm --data_dir texts.txt --output_dir out/writer
    hf-rnn train labelled.csv out/guard --streaming
    python scripts/guard_stream.py --writer out/writer --guard out/guard --label unsafe --threshold
    0.9

The guard reads each piece as it is written. It keeps a state, so that a piece costs the same at any
length of a text.
"""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from hf_rnn import FastRnn


class Guard:
    """A stopping criterion: print a text as it is written, until the guard stops it."""

    def __init__(
        self, reader: "FastRnn", tokenizer: Any, label: str, threshold: float, in_a_row: int
    ) -> None:
        self.stream = reader.stream(stop=label, threshold=threshold, in_a_row=in_a_row)
        self.tokenizer = tokenizer
        self.text = ""
        self.has_stopped = False

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """Read the tokens that are new, and return whether to stop."""
        import torch

        text = self.tokenizer.decode(input_ids[0], skip_special_tokens=True)
        if not text.endswith("\ufffd"):  # a part of a character
            print(text[len(self.text) :], end="", flush=True)
            answer = self.stream.feed(text[len(self.text) :])
            self.text = text
            self.has_stopped = "stop" in answer
        return torch.tensor([self.has_stopped])


def main() -> None:
    """Write a text under guard."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--writer", required=True, help="folder of a language model")
    parser.add_argument(
        "--guard", required=True, help="folder of a classifier, trained with --streaming"
    )
    parser.add_argument("--label", required=True, help="label at which the writer is stopped")
    parser.add_argument("--threshold", type=float, default=0.9, help="least score of the label")
    parser.add_argument("--in_a_row", type=int, default=1, help="after how many tokens in a row")
    parser.add_argument("--prompt", default="\n", help="start of the text")
    parser.add_argument("--max_new_tokens", type=int, default=200, help="most tokens to write")
    parser.add_argument("--seed", type=int, default=0, help="draws the tokens")
    arguments = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteriaList, set_seed

    from hf_rnn import FastRnn

    reader = FastRnn.from_pretrained(arguments.guard)
    model, tokenizer = (
        kind.from_pretrained(arguments.writer) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    guard = Guard(reader, tokenizer, arguments.label, arguments.threshold, arguments.in_a_row)
    set_seed(arguments.seed)
    prompt = tokenizer(arguments.prompt, return_tensors="pt")
    options = {
        "max_new_tokens": arguments.max_new_tokens,
        "stopping_criteria": StoppingCriteriaList([guard]),
    }
    model.generate(
        **prompt, do_sample=True, top_k=0, suppress_tokens=[tokenizer.unk_token_id], **options
    )
    print(f"\n[stopped: {arguments.label}]" if guard.has_stopped else "")


if __name__ == "__main__":
    main()
