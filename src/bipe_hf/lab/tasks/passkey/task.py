"""Passkey retrieval by length and depth (Mohtashami and Jaggi 2023): how often a model finds a number in a long text.

The length of a prompt counts every token of it: task, text, key, question and a beginning-of-text token where the
tokenizer puts one. A prompt holds as much text as fits, in whole sentences (or words, where it comes from data), so it
is at most that long. The answer, up to `ANSWER_TOKENS` tokens chosen greedily, comes on top. A key is found where the
first number of the answer is that key.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import datasets
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ....model.errors_bipe import InputError
from ...common.checkpoints import Checkpoint
from ...common.generation import encode_prompt
from ...data import load_documents
from ...evaluation.held_out import held_out_fraction, warn_of_known_documents
from ..results import TaskResult
from ..shipped import ShippedTask
from .picture import draw_heat_map
from .prompts import CLASSIC_FILLER, Filler, check_length, make_prompt, words_filler


if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Enough for a space, five digits and what ends the number, each in a token of its own, and a few words before it.
ANSWER_TOKENS = 16
# Words of data to take text from: whatever the lengths, so that others can be added to a file of results.
TEXT_WORDS = 1_000_000


@dataclass(frozen=True)
class PasskeySettings:
    """What is measured.

    Args:
        lengths: of the prompts in tokens, distinct.
        depths: share of the text that stands before the key, from 0 to 1, distinct.
        samples: prompts at each length and depth, each with a key of its own.
        seed: of keys and text. The same one gives the same prompts to every model with the same tokenizer.
        data: what `bipe_hf.lab.data.load_documents` reads, to hide the key in the first `TEXT_WORDS` words of its
            validation split; None hides it in the sentences of the paper.
        text_column: of the data; None is `text`.
        validation_fraction: of the data; None holds out what the models' training held out.
    """

    lengths: list[int]
    depths: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    samples: int = 20
    seed: int = 0
    data: str | None = None
    text_column: str | None = None
    validation_fraction: float | None = None


class Passkey(ShippedTask):
    """The share of keys that are found, a heat map for each model."""

    settings_class = PasskeySettings
    axes = {"length": "lengths", "depth": "depths"}
    one_figure = False

    def prepare(self, settings: PasskeySettings, candidates: Sequence[Checkpoint]) -> dict[str, Any]:
        for name in self.axes.values():
            given = getattr(settings, name)
            if len(set(given)) < len(given):
                raise InputError(f"{name}: the same one is given twice in {', '.join(map(str, given))}")
        for depth in settings.depths:
            if not 0 <= depth <= 1:  # nan included
                raise InputError(f"depths: {depth} is not between 0 (before the text) and 1 (behind it)")
        if settings.samples < 1:
            raise InputError(f"samples: {settings.samples} is less than 1")
        resolved = asdict(settings)
        if settings.data is None:
            for name in ("text_column", "validation_fraction"):
                if getattr(settings, name) is not None:
                    raise InputError(f"{name}: without data there is no text to read")
        else:
            column = settings.text_column or "text"
            fraction = held_out_fraction(candidates, settings.data, settings.validation_fraction, text_column=column)
            resolved |= {"text_column": column, "validation_fraction": fraction}
            held_out = load_documents(settings.data, text_column=column, validation_fraction=fraction)["validation"]
            warn_of_known_documents(candidates, held_out, [len(held_out)] * len(candidates), settings.data)
        _read_filler.cache_clear()  # the data may have changed
        text = "".join(_filler(**resolved).pieces)
        return resolved | {"text_sha256": hashlib.sha256(text.encode()).hexdigest()}

    def check(self, settings: dict[str, Any], candidate: Checkpoint) -> None:
        tokenizer = candidate.tokenizer
        if encode_prompt(tokenizer, "a")[-1] == tokenizer.eos_token_id:
            raise InputError(
                f"model {candidate.given}: its tokenizer ends a prompt with end-of-text, so none is answered"
            )
        for length in settings["lengths"]:
            try:
                check_length(
                    tokenizer, _filler(**settings), length, settings["depths"], settings["samples"], settings["seed"]
                )
            except ValueError as error:
                raise InputError(f"{error} (tokenizer of {candidate.given})") from error

    def table(self, results: Sequence[TaskResult]) -> list[list[str]]:
        """A row for each depth of each model, a column for each length."""
        results = [result for result in results if result.metric == "found"]
        lengths = sorted({result.part["length"] for result in results})
        rows = [["model", "depth", *map(str, lengths)]]
        for model in dict.fromkeys(result.model for result in results):
            own = [result for result in results if result.model == model]
            title = f"{own[0].name} ({own[0].encoding})"
            cells = {(result.part["depth"], result.part["length"]): result.value for result in own}
            depths = sorted({result.part["depth"] for result in own})
            for depth in depths:
                rows.append([title, f"{depth:g}", *(_percent([cells.get((depth, length))]) for length in lengths)])
            means = [_percent([cells.get((depth, length)) for depth in depths]) for length in lengths]
            rows.append([title, "mean", *means])
        return rows

    def draw(self, results: Sequence[TaskResult]) -> "Figure":
        return draw_heat_map([result for result in results if result.metric == "found"])


def _percent(shares: Sequence[float | None]) -> str:
    """Their mean; a dash where one is missing."""
    return "-" if None in shares else f"{sum(shares) / len(shares):.1%}"


def _filler(data: str | None, text_column: str | None, validation_fraction: float | None, **others: Any) -> Filler:
    if data is None:
        return CLASSIC_FILLER
    return _read_filler(data, text_column or "text", 0.05 if validation_fraction is None else validation_fraction)


@lru_cache(maxsize=1)
def _read_filler(data: str, text_column: str, validation_fraction: float) -> Filler:
    documents = load_documents(data, text_column=text_column, validation_fraction=validation_fraction)
    return words_filler((row["text"] for row in documents["validation"]), TEXT_WORDS)


def documents(
    tokenizer: PreTrainedTokenizerBase | str | None = None, pretrained: str | None = None, **metadata: Any
) -> dict[str, datasets.Dataset]:
    """What the harness asks: a prompt for each length, depth and sample, in one split, `test`.

    Args:
        tokenizer: or its folder or name; None takes that of `pretrained`.
        pretrained: folder or name of the model, as `lm_eval run --model hf` hands it over.
        metadata: the fields of `PasskeySettings`, and whatever else the harness hands over.
    """
    known = {each.name for each in fields(PasskeySettings)}
    settings = PasskeySettings(**{name: value for name, value in metadata.items() if name in known})
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer or pretrained)
    filler = _filler(settings.data, settings.text_column, settings.validation_fraction)
    rows = []
    for length in settings.lengths:
        for depth in settings.depths:
            for sample in range(settings.samples):
                prompt = make_prompt(tokenizer, filler, length, depth, sample, settings.seed)
                rows.append(
                    {
                        "prompt": prompt.text,
                        "key": prompt.key,
                        "prompt_tokens": len(prompt.input_ids),
                        "max_new_tokens": ANSWER_TOKENS,
                    }
                )
    return {"test": datasets.Dataset.from_list(rows)}


def score(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the first number of an answer is the key, as 0 or 1, and the length of the prompt in tokens.

    Args:
        doc: a row of [`documents`].
        results: the answer alone.
    """
    return {"found": float(first_number(results[0]) == doc["key"]), "prompt_tokens": doc["prompt_tokens"]}


def first_number(text: str) -> str | None:
    """The first run of the digits 0 to 9."""
    found = re.search(r"[0-9]+", text)
    return None if found is None else found[0]
