"""`bipe-hf serve MODEL`: an OpenAI-compatible server with one model."""

import argparse

from ..model.errors_bipe import InputError
from . import measuring


NAME = "serve"
HELP = "serve a model to OpenAI clients"
DESCRIPTION = """\
Serve a model over HTTP, as OpenAI's API has it: /v1/chat/completions, where the tokenizer has a chat template,
/v1/completions, /v1/models, and /health. Answers can be streamed.

  bipe-hf serve runs/demo/tiny_bipe_rope --port 8000

The server is that of transformers. Clients call the model by MODEL, or leave it out.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    measuring.add_model_arguments(parser)
    parser.add_argument("--host", default="localhost", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    group = parser.add_argument_group("many requests at once")
    group.add_argument(
        "--continuous-batching",
        action="store_true",
        help="write all answers at once, with a paged cache (default: one after the other)",
    )
    group.add_argument(
        "--num-blocks",
        type=int,
        metavar="N",
        help="size of the paged cache, in blocks of 256 tokens (default: most of the memory that is free)",
    )
    group.add_argument(
        "--max-batch-tokens", type=int, metavar="N", help="tokens of a step (default: what the memory holds)"
    )
    measuring.add_machine_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Checks the request and serves until Ctrl-C."""
    sizes = {"num_blocks": arguments.num_blocks, "max_batch_tokens": arguments.max_batch_tokens}
    for name, value in sizes.items():
        flag = f"--{name.replace('_', '-')} {value}"
        if value is not None and value < 1:
            raise InputError(f"{flag}: at least 1 is needed")
        if value is not None and not arguments.continuous_batching:
            raise InputError(f"{flag}: give --continuous-batching too")

    from ..lab.common.extras import require

    for library in ("fastapi", "openai", "uvicorn"):
        require(library, "serve", "serve")
    from transformers import ContinuousBatchingConfig

    from ..lab.serving.run import serve

    serve(
        arguments.model,
        arguments.revision,
        host=arguments.host,
        port=arguments.port,
        batching=ContinuousBatchingConfig(**sizes) if arguments.continuous_batching else None,
        device=arguments.device,
        dtype=arguments.dtype,
        attention=arguments.attn_implementation,
    )
