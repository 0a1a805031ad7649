"""`bipe-hf generate MODEL PROMPT`: continue a text, printed as it is written; `--chat` talks to the model."""

import argparse
import sys
from typing import TYPE_CHECKING

from ..model.errors_bipe import InputError
from . import measuring


if TYPE_CHECKING:
    from ..lab.common.chat import Chat


NAME = "generate"
HELP = "continue a text with a trained model, or chat with it, printed as it is written"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    measuring.add_model_arguments(parser)
    prompt = parser.add_argument(
        "prompt",
        metavar="PROMPT",
        help="text to continue, for a chat model what the user says; - reads it from standard input, without the line"
        " end that closes it",
    )
    parser.add_argument(
        "--chat",
        action=InsteadOf,
        other=prompt,
        help="chat instead: each line is a turn, Ctrl-C stops an answer, /exit or the end of input leaves",
    )
    parser.add_argument(
        "--raw", action="store_true", help="continue PROMPT as it stands, though the tokenizer has a chat template"
    )
    parser.add_argument("--max-new-tokens", type=int, default=100, metavar="N", help="tokens to add (default: 100)")
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="draw each token at random, the more freely the higher T is (1 draws from the model's own"
        " probabilities); without it the likeliest token is taken each time",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="with --temperature: draw only among the likeliest tokens that together have probability P (0 < P <= 1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random draws (default: 0)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps ... (default: an accelerator where there is one)")


class InsteadOf(argparse.Action):
    """A flag with which an argument that is needed otherwise may be left out."""

    def __init__(self, *args, other: argparse.Action, **kwargs):
        super().__init__(*args, nargs=0, default=False, **kwargs)
        self.other = other

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *args) -> None:
        setattr(namespace, self.dest, True)
        self.other.required = False


def run(arguments: argparse.Namespace) -> None:
    """Checks the request, loads the model and streams the text to standard output."""
    if arguments.max_new_tokens < 1:
        raise InputError(f"--max-new-tokens {arguments.max_new_tokens}: at least 1 is needed")
    if arguments.temperature is not None and not arguments.temperature > 0:
        raise InputError(
            f"--temperature {arguments.temperature}: must be above 0 (leave it out for the likeliest text)"
        )
    if arguments.top_p is not None and arguments.temperature is None:
        raise InputError("--top-p only limits random draws: give --temperature too")
    if arguments.top_p is not None and not 0 < arguments.top_p <= 1:
        raise InputError(f"--top-p {arguments.top_p}: must be above 0 and at most 1")
    if arguments.chat and (arguments.prompt is not None or arguments.raw):
        raise InputError("--chat reads what you say line by line: leave PROMPT and --raw out")
    prompt = None if arguments.chat else _checked(_read_prompt() if arguments.prompt == "-" else arguments.prompt)

    import torch
    from transformers import TextStreamer, set_seed

    from ..lab.common.chat import Chat
    from ..lab.common.checkpoints import is_bipe, open_checkpoint
    from ..lab.common.devices import check_device
    from ..lab.common.generation import chat_prompt

    device = check_device(arguments.device)
    checkpoint = open_checkpoint(arguments.model, arguments.revision)
    tokenizer = checkpoint.tokenizer
    if arguments.chat and tokenizer.chat_template is None:
        raise InputError(f"model {arguments.model}: its tokenizer has no chat template, give PROMPT instead of --chat")
    model = checkpoint.load(device, dtype="auto", attention=None)
    options = {"max_new_tokens": arguments.max_new_tokens, "do_sample": arguments.temperature is not None}
    if options["do_sample"]:
        options |= {"temperature": arguments.temperature, "top_p": arguments.top_p or 1.0, "top_k": 0}
        set_seed(arguments.seed)
    if arguments.chat:
        _talk(Chat(model, tokenizer, **options))
        return
    # Only what every causal model takes: a BiPE model derives the segments, also those of the tokens to come.
    is_chat = tokenizer.chat_template is not None and not arguments.raw
    if is_chat:
        print(
            "the prompt is a turn of the user, by the tokenizer's chat template (--raw continues it as it stands)",
            file=sys.stderr,
        )
        inputs = chat_prompt(tokenizer, [{"role": "user", "content": prompt}], "--raw continues it as it stands")
    else:
        inputs = tokenizer(prompt, return_tensors="pt")
    length = inputs.input_ids.shape[1] + arguments.max_new_tokens
    if is_bipe(model.config) and length > model.config.max_position_embeddings:
        print(
            f"prompt and answer are {length:,} tokens, the model is declared for"
            f" {model.config.max_position_embeddings:,} (max_position_embeddings)",
            file=sys.stderr,
        )
    with torch.inference_mode():
        model.generate(
            input_ids=inputs.input_ids.to(device),
            attention_mask=inputs.attention_mask.to(device),
            streamer=TextStreamer(tokenizer, skip_prompt=is_chat, skip_special_tokens=True),
            **options,
        )


def _talk(chat: "Chat") -> None:
    """Answers each line of standard input until `/exit` or its end."""
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if text == "/exit":
            return
        if text:
            chat.answer(_checked(text))


def _checked(prompt: str) -> str:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # other bytes come as lone surrogates
        raise InputError(f"the prompt is not UTF-8 text (behind {prompt[: error.start]!r})") from error
    if not prompt:
        raise InputError("the prompt is empty: give at least one character to continue")
    return prompt


def _read_prompt() -> str:
    """Standard input without the line end that a pipe or a file closes it with."""
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InputError(f"the prompt on standard input is not {error.encoding} text (byte {error.start})") from error
    return text.removesuffix("\n").removesuffix("\r")
