"""Instruction tuning: prompts with their answers, the loss on the answers alone."""

from typing import Any

from datasets import DatasetDict, Value
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ...model.errors_bipe import InputError
from .arguments import RowArguments, TaskArguments
from .causal_lm import CausalLM, closed
from .task import check_rows, shortened


class Instructions(CausalLM):
    """`prompt` and `completion`, both texts or both lists of messages (`role`, `content`).

    With a chat template they are turns of a conversation, which closes the answer as the template does. Without one
    they are joined as they stand and closed with eos. Both parts are tokenized apart and their ids joined: the border
    is exact, and the prompt has the tokens that it has when the model is used.

    Of an example longer than `max_length` the prompt loses its beginning, but for bos; where the answer alone is
    longer, it loses its end.
    """

    columns = ("prompt", "completion")
    cut = "longer than max_length: the beginning of the prompt was cut, then the end of the answer"

    def __init__(self, task_args: TaskArguments, row_args: RowArguments, rows: DatasetDict) -> None:
        for column in self.columns:
            for split, part in rows.items():
                feature = part.features[column]
                if isinstance(feature, Value) and feature.dtype not in ("string", "large_string"):
                    raise InputError(
                        f"{column}: text or messages are needed, the column of the {split} split holds {feature}"
                    )
        check_rows(rows, "prompt", lambda prompt: prompt is not None, "is missing")
        check_rows(rows, "completion", bool, "is empty")
        for column in self.columns:
            check_rows(rows, column, _has_roles, "holds a message without role or content")

    def encode(self, batch: dict[str, list], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list]:
        examples = {"input_ids": [], "labels": [], "is_cut": []}
        for prompt, completion in zip(batch["prompt"], batch["completion"], strict=True):
            prompt_ids, answer_ids = encode_pair(prompt, completion, tokenizer)
            room = max(max_length - len(answer_ids), 1)  # a first token of the answer would not be learnt
            is_cut = len(prompt_ids) + len(answer_ids) > max_length
            if len(prompt_ids) > room:
                bos = [token for token in prompt_ids[:1] if token == tokenizer.bos_token_id]
                prompt_ids = bos + prompt_ids[len(prompt_ids) - room + len(bos) :]
            ids = (prompt_ids + answer_ids)[:max_length]
            examples["input_ids"].append(ids)
            examples["labels"].append([-100] * max(len(prompt_ids), 1) + ids[max(len(prompt_ids), 1) :])
            examples["is_cut"].append(is_cut)
        return examples


def _has_roles(value: str | list[dict[str, Any]]) -> bool:
    if isinstance(value, str):
        return True
    return all(
        isinstance(message, dict) and message.get("role") is not None and message.get("content") is not None
        for message in value
    )


def encode_pair(prompt: Any, completion: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of the answer to it, the closing token included.

    Raises:
        ValueError: messages for a tokenizer without a chat template, or a template that refuses them or writes the
            prompt otherwise once the answer stands behind it.
    """
    if tokenizer.chat_template is None:
        if not (isinstance(prompt, str) and isinstance(completion, str)):
            raise InputError("prompt: messages need a tokenizer with a chat template, this model has none; give text")
        prompt_ids = tokenizer(prompt)["input_ids"]
        if prompt_ids[-1:] == [tokenizer.eos_token_id]:  # of a tokenizer that closes every text
            prompt_ids = prompt_ids[:-1]
        return prompt_ids, closed(tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer)
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    completion = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    try:
        before = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(prompt + completion, tokenize=False)
    except TemplateError as error:
        raise InputError(f"the chat template refuses {shortened(prompt + completion)}: {error}") from error
    if not whole.startswith(before):
        raise InputError("the chat template writes a prompt otherwise once it has an answer, so none can be cut off")
    return tuple(
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, whole.removeprefix(before))
    )
