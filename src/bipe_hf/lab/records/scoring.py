"""How many bits the fields of rows take: minus the logarithm to base 2 of their probability."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...model.errors_bipe import InputError
from ..common.checkpoints import open_checkpoint
from ..common.devices import check_device
from ..common.files import read_json
from .form import Form, Row
from .schema import Schema
from .tokens import Field, encode_rows, row_ids, windows


SCHEMA_FILE = "records.json"
BATCH_TOKENS = 8192


@dataclass(frozen=True)
class RecordModel:
    """A model of records, ready to be used."""

    model: PreTrainedModel
    """A causal language model."""
    tokenizer: PreTrainedTokenizerBase
    """Its own."""
    schema: Schema
    """Of the records that it learnt."""
    length: int
    """Tokens of its training examples."""

    @property
    def form(self) -> Form:
        """How rows are written for the model."""
        return self.schema.form

    def fields(self, rows: Sequence[Row]) -> list[list[Field]]:
        """The fields of each row, of a log its words."""
        return list(encode_rows(rows, self.form, self.tokenizer))

    def bits(self, fields: Sequence[Sequence[Field]], description: str | None = None) -> list[list[float]]:
        """The bits of each field of rows, which stand in their order.

        Where the order of rows means nothing, a row is scored alone; else behind as many of the rows before it as half
        a window holds, or more.

        Args:
            fields: of each row, as [`RecordModel.fields`] gives them.
            description: shows a progress bar.
        """
        length = self.length if self.schema.order == "file" else None
        return field_bits(self.model, fields, self.tokenizer.eos_token_id, length, description)


def open_records(source: str | Path, *, revision: str | None = None, device: str | None = None) -> RecordModel:
    """A model that `bipe-hf records train` made.

    Args:
        source: its folder, or its name on the Hub.
        revision: branch, tag or commit on the Hub.
        device: a torch device; None takes the accelerator where there is one.

    Raises:
        ValueError: it cannot be loaded, or it is no model of records.
    """
    target = check_device(device)
    checkpoint = open_checkpoint(source, revision)
    file = checkpoint.folder / SCHEMA_FILE
    if not file.is_file():
        raise InputError(
            f"model {source}: `bipe-hf records train` has written no {SCHEMA_FILE} in this folder (docs/records.md)"
        )
    content = read_json(file)
    try:
        schema = Schema.from_dict(content)
        length = content["train_length"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not what `bipe-hf records train` writes ({error})") from error
    return RecordModel(checkpoint.load(target, dtype="auto", attention=None), checkpoint.tokenizer, schema, length)


def field_bits(
    model: PreTrainedModel,
    rows: Sequence[Sequence[Field]],
    eos_token_id: int,
    length: int | None,
    description: str | None = None,
) -> list[list[float]]:
    """The bits of each field of each row.

    Args:
        model: a causal language model.
        rows: the fields of each row.
        eos_token_id: stands in front of what is scored, as in training.
        length: tokens of rows that are seen together; None scores each row alone.
        description: shows a progress bar.
    """
    ids = list(map(row_ids, rows))
    sizes = list(map(len, ids))
    seen = (
        [(at, at, at + 1) for at in range(len(rows))] if length is None else list(windows(sizes, length, length // 2))
    )
    sequences = [[eos_token_id, *(each for row in ids[first:stop] for each in row)] for first, _, stop in seen]
    costs: list[list[float]] = []
    for (first, new, stop), bits in zip(seen, token_bits(model, sequences, description), strict=True):
        at = sum(sizes[first:new])
        for row in rows[new:stop]:
            ends = np.cumsum([len(field.ids) for field in row]) + at
            costs.append(np.diff(np.concatenate([[0.0], np.cumsum(bits)])[[at, *ends]]).tolist())
            at = ends[-1]
    return costs


def by_column(fields: Sequence[Field], bits: Sequence[float]) -> dict[str, float]:
    """The bits of a row by column; those of the words of a log together."""
    sums: dict[str, float] = {}
    for field, cost in zip(fields, bits, strict=True):
        sums[field.column] = sums.get(field.column, 0.0) + cost
    return sums


@torch.inference_mode()
def token_bits(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], description: str | None = None
) -> list[np.ndarray]:
    """The bits of the tokens of each sequence but its first one, as float64 arrays of shape `(length - 1,)`.

    Sequences of about the same length run together, filled up at their ends, which no token before sees.
    """
    order = sorted(range(len(sequences)), key=lambda at: -len(sequences[at]))
    bits: list[np.ndarray] = [np.empty(0)] * len(sequences)
    with tqdm(total=len(sequences), desc=description, unit="row", disable=description is None) as bar:
        while order:
            longest = len(sequences[order[0]])
            batch, order = order[: max(1, BATCH_TOKENS // longest)], order[max(1, BATCH_TOKENS // longest) :]
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            for row, at in zip(ids, batch, strict=True):
                row[: len(sequences[at])] = torch.tensor(sequences[at])
            ids = ids.to(model.device)
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            losses = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none") / math.log(2)
            for own, at in zip(losses.cpu().double().numpy(), batch, strict=True):
                bits[at] = own[: len(sequences[at]) - 1]
            bar.update(len(batch))
    return bits
