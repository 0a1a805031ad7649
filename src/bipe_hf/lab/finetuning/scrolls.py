"""SCROLLS: questions about long documents and summaries of them, the loss on the answers alone."""

from datasets import DatasetDict
from transformers import PreTrainedTokenizerBase

from ..tasks.scrolls.data import read_split
from ..tasks.scrolls.prompts import LEAST_ROOM, closing_ids, encode_prompts, plain_ids
from ..tasks.scrolls.tasks import find_task
from .arguments import RowArguments, TaskArguments
from .causal_lm import CausalLM, closed
from .task import check_rows, row_error


class Scrolls(CausalLM):
    """`input` (question, blank line and document, or a document to summarise) and `output`, as in SCROLLS.

    Document, question and answer are joined in this order and closed with eos. Of an example longer than `max_length`
    the document loses its end: the question is always whole, and so is the answer, unless it would leave the document
    no room at all: then it is cut at `answer_length`. `answer_length` tokens are kept for the answer, or as many as a
    longer one has, so that the document is cut where it is cut when the model answers.

    Each reference of an example is an example to train on.
    """

    columns = ("input", "output")
    keys = frozenset({"scrolls_task", "answer_length"})
    cut = (
        "longer than max_length: the end of the document was cut, or that of an answer which left no room for any"
        " document"
    )

    @classmethod
    def read(cls, task_args: TaskArguments, row_args: RowArguments) -> DatasetDict:
        find_task("scrolls_task", task_args.scrolls_task)
        return DatasetDict(
            {split: read_split(row_args.data, task_args.scrolls_task, split) for split in ("train", "validation")}
        )

    def __init__(self, task_args: TaskArguments, row_args: RowArguments, rows: DatasetDict) -> None:
        self.scrolls_task = find_task("scrolls_task", task_args.scrolls_task)
        self.answer_length = row_args.answer_length or self.scrolls_task.answer_length
        for column in self.columns:
            check_rows(rows, column, lambda text: text is not None, "is missing")
        for split, part in rows.items():
            for index, text in enumerate(part["input"]):
                try:
                    self.scrolls_task.split_input(text)
                except ValueError as error:
                    raise row_error("input", part, split, index, str(error)) from error

    def encode(self, batch: dict[str, list], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list]:
        whole = [closed(ids, tokenizer) for ids in plain_ids(batch["output"], tokenizer)]
        answers = [
            self._fitting(answer, text, tokenizer, max_length)
            for answer, text in zip(whole, batch["input"], strict=True)
        ]
        is_answer_cut = [len(answer) < len(all_of_it) for answer, all_of_it in zip(answers, whole, strict=True)]
        lengths = [max(self.answer_length, len(answer)) for answer in answers]
        prompts, is_document_cut = encode_prompts(batch["input"], self.scrolls_task, tokenizer, max_length, lengths)
        pairs = list(zip(prompts, answers, strict=True))
        return {
            "input_ids": [prompt + answer for prompt, answer in pairs],
            "labels": [[-100] * len(prompt) + answer for prompt, answer in pairs],
            "is_cut": [any(cuts) for cuts in zip(is_document_cut, is_answer_cut, strict=True)],
        }

    def _fitting(self, answer: list[int], text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[int]:
        """The answer, cut at `answer_length` where all of it would leave the document no room."""
        if len(answer) <= self.answer_length:
            return answer
        question, _ = self.scrolls_task.split_input(text)
        room = max_length - len(closing_ids(question, tokenizer)) - LEAST_ROOM
        return answer if len(answer) <= room else answer[: self.answer_length]
