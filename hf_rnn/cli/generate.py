"""`hf-rnn generate`: continue a prompt with a language model; print the text as it is made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ..training.arguments.parser import SettingsParser, setting
from ..utils.errors import UserError
from ..utils.text_checks import check_text
from .console import ModelFlags


@dataclass
class GenerateArguments(ModelFlags):
    """Flags of this verb."""

    prompt: str | None = setting(None, "text to continue; - reads standard input (default: a line feed)")
    max_new_tokens: int = setting(500, "number of tokens to add", least=1)
    temperature: float = setting(
        0.8, "below 1 makes likely tokens likelier; 0 takes the likeliest one", least=0, most=100
    )
    top_k: int = setting(0, "draw from this number of the likeliest tokens; 0 for all", least=0)
    top_p: float = setting(1.0, "draw from the likeliest tokens with this probability in all", above=0, most=1)
    seed: int | None = setting(None, "seed, to get the same text again")
    device: str = setting("cpu", "device of torch: cpu, cuda, mps ...")

    def check(self) -> None:
        """Raise a [`UserError`] for a prompt that no model can read."""
        check_text(self.prompt or "")


def run(argv: Sequence[str]) -> None:
    """Print the prompt and its continuation."""
    (arguments,) = SettingsParser(
        GenerateArguments,
        prog="hf-rnn generate",
        description="Continue a text with a language model.",
        example="my-model --prompt 'Once upon a time'",
    ).parse(argv)
    arguments.check()
    arguments.check_model()
    import torch
    from transformers import TextStreamer

    from ..hub import loading as model_loading
    from ..tasks import check_verb

    model_loading.quiet()
    model, tokenizer = model_loading.load_model(arguments.model, arguments.revision, arguments.device)
    check_verb(model.config, "generate")
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    batch = tokenizer(prompt or "\n", return_tensors="pt").to(model.device)
    if batch["input_ids"].shape[1] == 0:
        raise UserError(f"--prompt {prompt!r:.40} has no token of the model: give a word")
    if arguments.seed is not None:
        torch.manual_seed(arguments.seed)
    drawn = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p")}
    model.generate(
        **batch,
        **({"do_sample": True, **drawn} if arguments.temperature > 0 else {"do_sample": False}),
        max_new_tokens=arguments.max_new_tokens,
        suppress_tokens=[tokenizer.unk_token_id],
        pad_token_id=tokenizer.pad_token_id,
        streamer=TextStreamer(tokenizer, skip_special_tokens=True),
    )
