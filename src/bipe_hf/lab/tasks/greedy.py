"""A model as the tasks of this package ask it, where the harness's own would cut prompts and follow saved settings."""

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..common.generation import encode_prompt, write_greedily


BATCH_TOKENS = 8192
"""In a batch, padding included, where no number of prompts is given."""


class GreedyModel(LM):
    """Takes the likeliest token each time, up to the `max_new_tokens` of a document.

    Prompts are read whole: the harness's model for `transformers` cuts the beginning off what is longer than
    `max_position_embeddings`, and what a saved generation config says of sampling or repetition holds there.

    Args:
        model: with `generate`.
        tokenizer: its own.
        batch_size: prompts at once; None takes as many as have `BATCH_TOKENS` together.
        title: of the progress bar.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int | None, title: str
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.title = title

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answer to each request.

        Special tokens stand in it where its task asks for them. `generation_kwargs` of a task: of them only
        `skip_special_tokens` (default: true) is read.
        """
        prompts = [encode_prompt(self.tokenizer, request.args[0]) for request in requests]
        # Behind an answer that has ended it must be a token that decodes to nothing.
        special = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        padding = next((each for each in special if each is not None), 0)
        answers: list[str] = []
        with tqdm(total=len(prompts), desc=self.title, unit="answer", disable=disable_tqdm) as bar:
            while len(answers) < len(prompts):
                batch = slice(len(answers), len(answers) + self._count(prompts[len(answers) :]))
                some = requests[batch]
                written = write_greedily(
                    self.model,
                    prompts[batch],
                    max(request.doc["max_new_tokens"] for request in some),
                    pad_token_id=padding,
                )
                skip = some[0].args[1].get("skip_special_tokens", True)
                answers += self.tokenizer.batch_decode(written, skip_special_tokens=skip)
                bar.update(len(some))
        return answers

    def _count(self, prompts: list[list[int]]) -> int:
        """Of these prompts, how many from the first on make a batch."""
        if self.batch_size is not None:
            return self.batch_size
        longest = 0
        for count, prompt in enumerate(prompts):
            longest = max(longest, len(prompt))
            if count and longest * (count + 1) > BATCH_TOKENS:
                return count
        return len(prompts)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("the tasks of this package ask for answers")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError("the tasks of this package ask for answers")
