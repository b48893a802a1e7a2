"""`hf-rnn generate`: continue a prompt with a language model; print the text as it is made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ..models.settings_rnn import setting
from ..settings.flags import Flags
from ..utils.errors import UserError, check_text
from .console import ModelFlags, print_note


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
    device: str = setting("cpu", "cpu is the fast path; cuda, mps ... run the plain model")


FLAGS = Flags(
    "generate",
    (GenerateArguments,),
    "Continue a text with a language model.",
    "my-model --prompt 'Once upon a time'",
    words=("model",),
)


def run(argv: Sequence[str]) -> None:
    """Print the prompt and its continuation."""
    arguments: GenerateArguments = FLAGS.build(argv)
    check_text(arguments.prompt or "")
    arguments.check_model()
    from ..hub.model_folder import quiet
    from ..inference.engines import InferenceOptions
    from ..inference.generation import TextGenerator
    from ..inference.predictor import load_engine
    from ..tasks import check_verb

    quiet()
    engine, tokenizer = load_engine(arguments.model, InferenceOptions(arguments.revision, device=arguments.device))
    check_verb(engine.config, "generate")
    prompt = (_read_stdin() if arguments.prompt == "-" else arguments.prompt) or "\n"
    ids, unknown = tokenizer([prompt])["input_ids"][0], tokenizer.unk_token_id
    if not ids:
        raise UserError(f"--prompt {prompt!r:.40} has no token of the model: give a word")
    if unknown in ids:
        print_note(f"note: the model does not know {ids.count(unknown):,} tokens of the prompt")
    drawn = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p", "seed")}
    for text in TextGenerator(engine.model, tokenizer).stream(ids, arguments.max_new_tokens, **drawn):
        print(text, end="", flush=True)
    print()


def _read_stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8: {error.reason}; convert it, for example with iconv") from None
