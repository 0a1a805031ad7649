"""`bipe-hf serve` inside a test: the same application, on a thread, with a view of what is behind it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import uvicorn
from transformers import ContinuousBatchingConfig

from bipe_hf.lab.serving.batches import Answers
from bipe_hf.lab.serving.run import listen, make_answers, make_app


class Server(NamedTuple):
    url: str
    answers: Answers

    def wait_until_idle(self) -> None:
        """Returns once nobody's request is being answered."""
        scheduler = self.answers.manager.scheduler
        stop = time.monotonic() + 20
        while scheduler.has_pending_requests() or not self.answers.manager._cb.cancel_queue.empty():
            assert time.monotonic() < stop
            time.sleep(0.05)


@contextmanager
def running(model, tokenizer, batching: ContinuousBatchingConfig | None, name: str = "tiny") -> Iterator[Server]:
    """A server of this model at a free port."""
    with listen("localhost", 0) as listening:
        answers = make_answers(model, batching)
        app = make_app(name, model, tokenizer, answers)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Server(f"http://localhost:{listening.getsockname()[1]}", answers)
        finally:
            server.should_exit = True
            thread.join()
            answers.shutdown()
