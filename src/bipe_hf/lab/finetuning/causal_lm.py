"""Causal language modelling: texts to continue, and answers to instructions."""

from collections.abc import Callable

from datasets import DatasetDict
from transformers import AutoModelForCausalLM, EvalPrediction, PreTrainedTokenizerBase

from ..common.session import perplexity
from .arguments import RowArguments, TaskArguments
from .collation import joined, padded_labels
from .task import Task, check_texts, is_text, token_losses


class CausalLM(Task):
    """Each row with any text is a document, closed with eos. One longer than `max_length` becomes several examples;
    the first token of each is predicted by nothing."""

    head = AutoModelForCausalLM
    columns = ("text",)
    is_token_wise = True
    best_metric = "loss"
    cut = "lost the token behind them, the last of their document, which alone would be predicted by nothing"

    def __init__(self, task_args: TaskArguments, row_args: RowArguments, rows: DatasetDict) -> None:
        check_texts(rows, "text")

    @property
    def metrics(self) -> list[str]:
        return ["loss", "perplexity"]

    def encode(self, batch: dict[str, list], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list]:
        examples = {"input_ids": [], "labels": [], "is_cut": []}
        for text in filter(is_text, batch["text"]):
            ids = closed(tokenizer(text)["input_ids"], tokenizer)
            for start in range(0, len(ids) - 1, max_length):
                end = start + max_length
                examples["input_ids"].append(ids[start:end])
                examples["labels"].append([-100, *ids[start + 1 : end]])  # nothing predicts a first token
                examples["is_cut"].append(end == len(ids) - 1)
        return examples

    def collator(self, tokenizer: PreTrainedTokenizerBase, is_padding_free: bool) -> Callable:
        return joined if is_padding_free else padded_labels(tokenizer)

    def preprocess_logits(self, logits, labels):
        return token_losses(logits, labels)  # one number a token, not one for each word of the vocabulary

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """`loss`, the mean over all tokens with a label (Trainer's own is one over batches), and its perplexity."""
        loss = float(prediction.predictions[prediction.label_ids != -100].mean(dtype="float64"))
        return {"loss": loss, "perplexity": perplexity(loss)}


def closed(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """`ids` with eos at the end, where the tokenizer has one and did not put it there."""
    if tokenizer.eos_token_id is None or ids[-1:] == [tokenizer.eos_token_id]:
        return ids
    return [*ids, tokenizer.eos_token_id]
