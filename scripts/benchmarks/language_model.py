"""Measure a language model against plain torch: training with `nn.LSTM`, and sampling from a GPT of equal size.

    python scripts/benchmarks/language_model.py

One thread, seconds of the processor, so that other programs disturb less. The GPT is sampled as nanoGPT does: the last
256 tokens are read again for each new one.
"""

import json
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any

VOCABULARY, STREAMS, BPTT = 67, 64, 64


def make_parser() -> ArgumentParser:
    """Declare the flags."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--hidden_size", type=int, default=512, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="per measurement (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=400, help="tokens to generate (default: %(default)s)")
    return parser


def main() -> None:
    """Print one JSON object: tokens per second of each."""
    args = make_parser().parse_args()

    import torch
    from torch import nn

    from hf_rnn import RnnConfig, RnnForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    ids = torch.randint(2, VOCABULARY, (STREAMS, BPTT + 1))

    def train_speed(model: Any, loss_and_state: Any) -> float:
        optimizer, state, pieces, start = torch.optim.AdamW(model.parameters(), fused=True), None, -1, 0.0
        while pieces < 1 or time.process_time() - start < args.seconds:
            loss, state = loss_and_state(state)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            pieces += 1
            start = time.process_time() if pieces == 0 else start  # the first one warms up
        return pieces * STREAMS * BPTT / (time.process_time() - start)

    sizes = {
        "vocab_size": VOCABULARY,
        "embedding_size": args.hidden_size,
        "hidden_size": args.hidden_size,
        "bidirectional": False,
    }
    own = RnnForCausalLM(RnnConfig(**sizes)).train()

    def own_step(state: Any) -> Any:
        output = own(ids[:, :-1], shift_labels=ids[:, 1:], cache=state, use_cache=True)
        return output.loss, output.cache.detach()

    table, lstm = (
        nn.Embedding(VOCABULARY, args.hidden_size),
        nn.LSTM(args.hidden_size, args.hidden_size, batch_first=True),
    )
    plain = nn.ModuleList([table, lstm, nn.Linear(args.hidden_size, VOCABULARY)])

    def plain_step(state: Any) -> Any:
        states, (h, c) = lstm(table(ids[:, :-1]), state)
        loss = nn.functional.cross_entropy(plain[2](states).flatten(0, 1), ids[:, 1:].flatten())
        return loss, (h.detach(), c.detach())

    found = {"train": train_speed(own, own_step), "train_nn_lstm": train_speed(plain, plain_step)}
    parameters = own.num_parameters()
    width = 32 * round((parameters / 48) ** 0.5 / 32)  # four layers of 12 width² parameters
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
    gpt, head = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).eval(), nn.Linear(width, VOCABULARY)
    tokens, places = nn.Embedding(VOCABULARY, width), nn.Embedding(256, width)
    mask = nn.Transformer.generate_square_subsequent_mask(256)

    @torch.inference_mode()
    def sample_gpt(count: int) -> None:
        text = ids[:1, :1]
        for _ in range(count):
            read = text[:, -256:]
            length = read.shape[1]
            states = gpt(tokens(read) + places.weight[:length], mask[:length, :length], is_causal=True)
            text = torch.cat([text, head(states[:, -1]).softmax(-1).multinomial(1)], dim=1)

    def sample_own(count: int) -> None:
        own.eval().generate(ids[:1, :1], max_new_tokens=count, do_sample=True, top_k=0)

    for name, sample in (("generate", sample_own), ("generate_gpt", sample_gpt)):
        sample(5)
        start = time.process_time()
        sample(args.tokens)
        found[name] = args.tokens / (time.process_time() - start)
    weights = {"parameters": parameters, "parameters_gpt": sum(p.numel() for p in gpt.parameters())}
    print(json.dumps({**weights, **{f"{name}_tokens_per_second": round(value, 1) for name, value in found.items()}}))


if __name__ == "__main__":
    main()
