"""`hf-rnn generate`: continue a prompt with a language model; print the text as it is made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, TextStreamer

from ..hub import loading as model_loading
from ..tasks import check_verb
from ..training.arguments.parser import SettingsParser, setting
from ..utils.errors import UserError
from ..utils.text_checks import check_text
from .console import ModelFlags, print_note

_PIECE = 4096  # tokens of the prompt that are read at once
_LEAST = 1e-3  # temperature; below it, the likeliest token is taken
_SHOWN = 5  # unknown characters or words in a note


@dataclass
class GenerateArguments(ModelFlags):
    """Flags of this verb."""

    prompt: str | None = setting(None, "text to continue; - reads standard input (default: a line feed)")
    max_new_tokens: int = setting(500, "number of tokens to add")
    temperature: float = setting(0.8, "below 1 makes likely tokens likelier; 0 takes the likeliest one")
    top_k: int = setting(0, "draw from this number of the likeliest tokens; 0 for all")
    top_p: float = setting(1.0, "draw from the likeliest tokens with this probability in all")
    seed: int | None = setting(None, "seed, to get the same text again")
    device: str = setting("cpu", "device of torch: cpu, cuda, mps ...")

    def check(self) -> None:
        """Raise a [`UserError`] for mistakes that are visible without the model."""
        ranges = {"max_new_tokens": (1, 10**9), "temperature": (0, 100), "top_k": (0, 10**9), "top_p": (1e-9, 1)}
        ranges |= {"seed": (0, 2**64 - 1)} if self.seed is not None else {}
        for name, (least, most) in ranges.items():
            if not least <= (value := getattr(self, name)) <= most:
                raise UserError(f"--{name} must be from {least:g} to {most:g}, found {value}")
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
    model_loading.quiet()
    model, tokenizer = model_loading.load_model(arguments.model, arguments.revision, arguments.device)
    check_verb(model.config, "generate")
    prompt = _read_stdin() if arguments.prompt == "-" else arguments.prompt or "\n"
    batch = tokenizer(prompt, return_tensors="pt")
    ids = batch["input_ids"].to(model.device)
    if ids.shape[1] == 0:
        raise UserError(f"--prompt {prompt!r:.40} has no token of the model: give a word")
    unknown = [] if tokenizer.unk_token_id is None else (ids[0] == tokenizer.unk_token_id).nonzero().flatten().tolist()
    if unknown:
        spans = (batch.token_to_chars(place) for place in unknown[:_SHOWN])
        shown = ", ".join(repr(prompt[span.start : span.end]) for span in spans if span is not None)
        print_note(f"note: the model does not know {len(unknown):,} tokens of the prompt, such as {shown}")
    if arguments.seed is not None:
        torch.manual_seed(arguments.seed)
    drawn = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p")}
    # the flags decide: generation_config.json may ask for beams, which cannot be printed as they are made
    model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
    streamer = TextStreamer(tokenizer, skip_special_tokens=True)
    streamer.put(ids[0, :-1].cpu())
    model.generate(
        ids[:, -1:],
        cache=_read_prompt(model, ids[:, :-1]),
        attention_mask=torch.ones_like(ids[:, -1:]),
        **({"do_sample": True, **drawn} if arguments.temperature >= _LEAST else {"do_sample": False}),
        max_new_tokens=arguments.max_new_tokens,
        suppress_tokens=None if tokenizer.unk_token_id is None else [tokenizer.unk_token_id],
        pad_token_id=tokenizer.pad_token_id,
        streamer=streamer,
    )


def _read_stdin() -> str:
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        found = error.object[error.start : error.start + 4]
        raise UserError(f"standard input is not UTF-8: found {found!r}; convert it, for example with iconv") from None
    check_text(text)
    return text or "\n"


@torch.no_grad()
def _read_prompt(model: PreTrainedModel, ids: torch.Tensor) -> Any:
    """Return the state after these tokens, read in pieces: all at once, 3 MB take 7 GB."""
    cache = None
    for piece in ids.split(_PIECE, dim=1) if ids.shape[1] else ():
        cache = model(piece, torch.ones_like(piece), cache=cache, use_cache=True, logits_to_keep=1).cache
    return cache
