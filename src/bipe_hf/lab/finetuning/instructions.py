"""Instruction tuning: prompts with their answers, or whole conversations, the loss on the answers alone."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

from datasets import DatasetDict
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ...model.errors_bipe import InputError
from .arguments import RowArguments, TaskArguments
from .causal_lm import CausalLM, closed
from .task import check_rows, shortened


PAIR = ("prompt", "completion")
CONVERSATION = ("messages",)


class Encoded(NamedTuple):
    """Token ids, and which of them are learnt."""

    ids: list[int]
    is_learnt: list[bool]

    @classmethod
    def joined(cls, parts: Iterable[tuple[list[int], bool]]) -> Self:
        """Of parts, each learnt or not."""
        parts = list(parts)
        return cls([token for ids, _ in parts for token in ids], [learnt for ids, learnt in parts for _ in ids])


class Instructions(CausalLM):
    """`prompt` and `completion`, both texts or both lists of messages (`role`, `content`), or `messages`, a whole
    conversation each.

    With a chat template they are turns of a conversation, which closes the answer as the template does. Without one
    prompt and answer are joined as they stand and closed with eos. Both parts are tokenized apart and their ids
    joined: the border is exact, and the prompt has the tokens that it has when the model is used. Of `messages` all
    turns of the assistant are learnt: those that the template marks (`{% generation %}`), or else what it writes
    for each.

    Of an example longer than `max_length` what stands before the last answer loses its beginning, but for bos; where
    the answer alone is longer, it loses its end.
    """

    columns = PAIR
    cut = "longer than max_length: the beginning of the prompt was cut, then the end of the answer"

    @classmethod
    def choose_columns(cls, available: Iterable[str], given: Iterable[str]) -> tuple[str, ...]:
        """`messages` where they are named or there, and no pair is."""
        if "messages" in given:
            return CONVERSATION
        is_conversation = "messages" in available and not {*PAIR} & {*given} and not {*PAIR} <= {*available}
        return CONVERSATION if is_conversation else PAIR

    def __init__(self, task_args: TaskArguments, row_args: RowArguments, rows: DatasetDict) -> None:
        self.columns = CONVERSATION if "messages" in rows["train"].column_names else PAIR
        if self.columns == CONVERSATION:
            check_rows(rows, "messages", _are_messages, "holds no messages, or one without role or content")
            check_rows(rows, "messages", _has_answer, "has no message of the assistant to learn")
            return
        check_rows(rows, "prompt", lambda prompt: prompt is not None, "is missing")
        check_rows(rows, "completion", bool, "is empty")
        for column in self.columns:
            check_rows(
                rows,
                column,
                lambda value: isinstance(value, str) or _are_messages(value),
                "holds neither text nor messages, or one without role or content",
            )

    def encode(self, batch: dict[str, list], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list]:
        examples = {"input_ids": [], "labels": [], "is_cut": []}
        for row in zip(*(batch[column] for column in self.columns), strict=True):
            whole = encode_conversation(*row, tokenizer) if self.columns == CONVERSATION else _pair(*row, tokenizer)
            ids, is_learnt = _fitting(whole, tokenizer, max_length)
            examples["input_ids"].append(ids)
            # nothing predicts a first token
            labels = [token if learnt else -100 for token, learnt in zip(ids, is_learnt, strict=True)]
            examples["labels"].append([-100, *labels[1:]])
            examples["is_cut"].append(len(whole.ids) > max_length)
        return examples


def _fitting(whole: Encoded, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """At most `max_length` tokens of it."""
    ids, is_learnt = whole
    last = len(ids) - 1 - is_learnt[::-1].index(True)
    answer = next((at + 1 for at in range(last, -1, -1) if not is_learnt[at]), 0)
    room = max(max_length - (last + 1 - answer), 1)  # a first token of the answer would not be learnt
    if len(ids) > max_length and answer > room:
        bos = 1 if ids[0] == tokenizer.bos_token_id else 0
        kept = [*range(bos), *range(answer - room + bos, len(ids))]
        ids, is_learnt = [ids[at] for at in kept], [is_learnt[at] for at in kept]
    return Encoded(ids[:max_length], is_learnt[:max_length])


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(message, dict)
            and isinstance(message.get("role"), str)
            and (isinstance(message.get("content"), str | list) or bool(message.get("tool_calls")))
            for message in value
        )
    )


def _has_answer(messages: list[dict[str, Any]]) -> bool:
    return any(message["role"] == "assistant" for message in messages)


def _pair(prompt: Any, completion: Any, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    prompt_ids, answer_ids = encode_pair(prompt, completion, tokenizer)
    return Encoded.joined([(prompt_ids, False), (answer_ids, True)])


def encode_pair(prompt: Any, completion: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of the answer to it, the closing token included.

    Raises:
        ValueError: messages for a tokenizer without a chat template, or a template that refuses them or writes the
            prompt otherwise once the answer stands behind it.
    """
    if tokenizer.chat_template is None:
        if not (isinstance(prompt, str) and isinstance(completion, str)):
            raise InputError(
                "prompt: messages need a tokenizer with a chat template, this model has none; give text"
                " (docs/finetune.md)"
            )
        prompt_ids = tokenizer(prompt)["input_ids"]
        if prompt_ids[-1:] == [tokenizer.eos_token_id]:  # of a tokenizer that closes every text
            prompt_ids = prompt_ids[:-1]
        return prompt_ids, closed(tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer)
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    completion = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    before = _written(prompt, tokenizer, add_generation_prompt=True)
    whole = _written(prompt + completion, tokenizer)
    if not whole.startswith(before):
        raise InputError("the chat template writes a prompt otherwise once it has an answer, so none can be cut off")
    return tuple(
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, whole.removeprefix(before))
    )


def encode_conversation(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Token ids of a conversation by the chat template; learnt is what the assistant says.

    Raises:
        ValueError: there is no chat template, it refuses the messages, or it neither marks the turns of the assistant
            nor writes a conversation as the beginning of a longer one.
    """
    if tokenizer.chat_template is None:
        raise InputError("messages: a tokenizer with a chat template is needed, this model has none")
    if re.search(r"\{%-?\s*generation\s*-?%\}", tokenizer.get_chat_template()):
        try:
            encoded = tokenizer.apply_chat_template(
                list(map(_given, messages)), return_dict=True, return_assistant_tokens_mask=True
            )
        except (TemplateError, TypeError) as error:
            raise _refused(messages, error) from error
        found = Encoded(encoded["input_ids"], list(map(bool, encoded["assistant_masks"])))
    else:
        found = Encoded.joined(
            (tokenizer(text, add_special_tokens=False)["input_ids"], learnt)
            for text, learnt in _turns(messages, tokenizer)
        )
    if not any(found.is_learnt):
        raise InputError(f"messages: the chat template writes nothing of the assistant in {shortened(messages)}")
    return found


def _turns(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> Iterable[tuple[str, bool]]:
    """The text of a conversation in parts: what the assistant says, the end of its turn included, and the rest."""
    whole = _written(messages, tokenizer)
    at = 0
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _written(messages[:index], tokenizer, add_generation_prompt=True) if index else ""
        behind = whole if index + 1 == len(messages) else _written(messages[: index + 1], tokenizer)
        if not (whole.startswith(behind) and behind.startswith(before) and len(before) >= at):
            raise InputError(
                "messages: the chat template neither marks the turns of the assistant ({% generation %}) nor writes a"
                " conversation as the beginning of a longer one, so what is to be learnt cannot be told; give prompt"
                " and completion"
            )
        yield whole[at : len(before)], False
        yield whole[len(before) : len(behind)], True
        at = len(behind)
    yield whole[at:], False


def _written(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, **options: Any) -> str:
    try:
        return tokenizer.apply_chat_template(list(map(_given, messages)), tokenize=False, **options)
    except (TemplateError, TypeError) as error:
        raise _refused(messages, error) from error


def _refused(messages: list[dict[str, Any]], error: Exception) -> InputError:
    return InputError(f"the chat template refuses {shortened(messages)}: {error}")


def _given(message: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that only other messages of the data have: there they are None."""
    return {key: value for key, value in message.items() if value is not None}
