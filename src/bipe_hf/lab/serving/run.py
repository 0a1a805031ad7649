"""Opens a model and serves it until it is told to stop."""

import socket

import uvicorn
from fastapi import FastAPI
from transformers import ContinuousBatchingConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cli.serving.server import build_server

from ...model.configuration_bipe import BipeConfigMixin
from ...model.errors_bipe import InputError
from ...model.paged_bipe import check_paged
from ..common.checkpoints import open_checkpoint
from ..common.devices import check_device, check_dtype
from .batches import Answers, OneByOne, Together
from .model import OneModel
from .requests import Chats, NotServed, Texts


SECONDS_TO_LEAVE = 5
"""How long a server that stops waits for those who read an answer."""


def serve(
    source: str,
    revision: str | None = None,
    *,
    host: str = "localhost",
    port: int = 8000,
    batching: ContinuousBatchingConfig | None = None,
    device: str | None = None,
    dtype: str = "auto",
    attention: str | None = None,
) -> None:
    """Serves a model until Ctrl-C.

    Args:
        source: a folder or a name on the Hub, as of [`open_checkpoint`]. Clients call the model so.
        revision: as of [`open_checkpoint`].
        host: where to listen.
        port: where to listen; 0 takes a free one.
        batching: writes all answers at once; None one after the other.
        device: a torch device; None takes the accelerator where there is one.
        dtype: one of `DTYPES`; `auto` is the dtype in which the model was saved.
        attention: `attn_implementation`; None takes the model's own.

    Raises:
        InputError: the model cannot be opened or not served so, or the address is taken.
        RuntimeError: the server did not start; what it printed says why.
        KeyboardInterrupt: it was stopped.
    """
    device = check_device(device)
    check_dtype(dtype)
    with listen(host, port) as listening:
        checkpoint = open_checkpoint(source, revision)
        if batching is not None and isinstance(checkpoint.config, BipeConfigMixin):
            check_paged(checkpoint.config, "--continuous-batching")
        model = checkpoint.load(device, dtype, attention)
        answers = make_answers(model, batching)
        config = uvicorn.Config(
            make_app(source, model, checkpoint.tokenizer, answers),
            log_level="warning",
            timeout_graceful_shutdown=SECONDS_TO_LEAVE,
        )
        port = listening.getsockname()[1]
        print(f"{source} is served at http://{host}:{port}/v1 (Ctrl-C stops it)", flush=True)
        server = uvicorn.Server(config)
        try:
            server.run(sockets=[listening])
        finally:
            answers.shutdown()
        if not server.started:
            raise RuntimeError("the server did not start; what it printed says why")
        raise KeyboardInterrupt  # it returns when it was interrupted, and does not always say so itself


def make_answers(model: PreTrainedModel, batching: ContinuousBatchingConfig | None) -> Answers:
    """What writes the answers of a server.

    Args:
        model: ready to write.
        batching: writes all answers at once; None one after the other.
    """
    manager = OneByOne() if batching is None else Together(model, batching)
    return Answers(manager, is_batched=batching is not None)


def make_app(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, answers: Answers) -> FastAPI:
    """The application of a server.

    Args:
        name: what clients call the model.
        model: ready to write.
        tokenizer: a fast one.
        answers: of [`make_answers`].
    """
    one = OneModel(name, model, tokenizer)
    return build_server(one, Chats(one, answers), Texts(one, answers), NotServed(), NotServed(), NotServed(), answers)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: name or address.
        port: from 0, any that is free, to 65535.

    Raises:
        InputError: nothing can listen there.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: must be from 0 (any that is free) to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: nothing can listen there ({error.strerror})") from error
