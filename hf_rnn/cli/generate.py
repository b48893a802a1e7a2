"""`hf-rnn generate`: continue a prompt with a language model; print the text as it is made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..training.settings import SettingsParser, setting
from ..utils.errors import UserError
from ..utils.text_checks import check_text
from .console import ModelFlags, print_note

_PIECE = 4096  # tokens of the prompt that are read at once
_LEAST = 1e-3  # temperature; below it, the likeliest token is taken


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
    seed: int | None = setting(None, "seed, to get the same text again", least=0, below=2**64)
    device: str = setting("cpu", "device of torch: cpu, cuda, mps ...")


def run(argv: Sequence[str]) -> None:
    """Print the prompt and its continuation."""
    (arguments,) = SettingsParser(
        GenerateArguments,
        prog="hf-rnn generate",
        description="Continue a text with a language model.",
        example="my-model --prompt 'Once upon a time'",
    ).parse(argv)
    check_text(arguments.prompt or "")
    arguments.check_model()
    import torch
    from transformers import GenerationConfig, TextStreamer

    from ..hub import loading as model_loading
    from ..tasks import check_verb

    model_loading.quiet()
    model, tokenizer = model_loading.load_model(arguments.model, arguments.revision, arguments.device)
    check_verb(model.config, "generate")
    prompt = (_read_stdin() if arguments.prompt == "-" else arguments.prompt) or "\n"
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
    if ids.shape[1] == 0:
        raise UserError(f"--prompt {prompt!r:.40} has no token of the model: give a word")
    if unknown := int((ids == tokenizer.unk_token_id).sum()) if tokenizer.unk_token_id is not None else 0:
        print_note(f"note: the model does not know {unknown:,} tokens of the prompt")
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
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8: {error.reason}; convert it, for example with iconv") from None


def _read_prompt(model: Any, ids: Any) -> Any:
    """Return the state after these tokens, read in pieces: all at once, 3 MB take 7 GB."""
    import torch

    cache = None
    with torch.no_grad():
        for piece in ids.split(_PIECE, dim=1) if ids.shape[1] else ():
            cache = model(piece, torch.ones_like(piece), cache=cache, use_cache=True, logits_to_keep=1).cache
    return cache
