"""The whole run: arguments checked, then every model measured and every result written as it comes."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ...model.errors_bipe import InputError
from ..common.checkpoints import Checkpoint, encoding_label, open_checkpoints, say_if_outdated
from ..common.devices import check_device, check_dtype
from ..common.digests import rows_digest
from ..common.files import user_path
from ..common.results import check_output, describe_environment, moment
from ..data import DEFAULT_CORPUS, load_documents
from .held_out import held_out_fraction, warn_of_known_documents
from .results import PROTOCOLS, Evaluation, Result
from .scoring import (
    STRIDE,
    LossSums,
    Windows,
    check_output_layer,
    make_windows,
    score_positions,
    segments_per_block,
)
from .text import Text, read_texts


SPLITS = ("train", "validation")


def check_arguments(
    lengths: Sequence[int],
    split: str,
    protocols: Sequence[str],
    stride: int,
    max_tokens: int | None,
    batch_tokens: int,
) -> None:
    """Refuses what no text and no model could be measured with."""
    if split not in SPLITS:
        raise InputError(f"split: {split!r} is none of {', '.join(SPLITS)}")
    for name, number in (("stride", stride), ("batch_tokens", batch_tokens)):
        if number < 1:
            raise InputError(f"{name}: {number} is not a positive number of tokens")
    if not lengths or not protocols:
        raise InputError("give at least one length and one protocol")
    for name, given in (("lengths", lengths), ("protocols", protocols)):
        if len(set(given)) < len(given):
            raise InputError(f"{name}: the same one is given twice in {', '.join(map(str, given))}")
    for length in lengths:
        if length < 2:
            raise InputError(f"lengths: {length} is too short, a block needs at least 2 tokens to predict one")
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise InputError(f"protocols: {protocol!r} is none of {', '.join(PROTOCOLS)}")
        for length in lengths:
            make_windows(protocol, length, length, stride)
    multiple = math.lcm(*lengths)
    if max_tokens is not None and max_tokens < multiple:
        raise InputError(
            f"max_tokens: {max_tokens} tokens hold no block of {multiple} "
            "(the longest length, or the least common multiple where not all lengths divide it)"
        )


def _earlier_results(output: Path, evaluation: Evaluation) -> list[Result]:
    earlier = Evaluation.load(output)
    there, now = ({"sha256": None} | each.data for each in (earlier, evaluation))
    # A text is the same by any name. One that has changed since is measured again.
    is_same = there["sha256"] is not None and there["sha256"] == now["sha256"]
    named = {"sha256", "source"} if is_same else {"sha256"}
    differs = any(there.get(key) != value for key, value in now.items() if key not in named)
    if differs or earlier.environment["dtype"] != evaluation.environment["dtype"]:
        raise InputError(f"resume: {output} holds results on other data or in another dtype (--overwrite replaces it)")
    return earlier.results


def _measure(
    checkpoint: Checkpoint,
    model: PreTrainedModel,
    text: Text,
    protocol: str,
    windows: Windows,
    stride: int | None,
    batch_tokens: int,
    unit_tokens: int | None,
) -> tuple[Result, LossSums | None]:
    description = f"{checkpoint.name} {protocol} {windows.length}"
    start = time.perf_counter()
    units = None if unit_tokens is None else text.units(unit_tokens)
    losses = score_positions(model, text.ids, windows, units=units, batch_tokens=batch_tokens, description=description)
    seconds = time.perf_counter() - start
    nll = losses.nll
    if not nll < math.log(sys.float_info.max):  # nan included
        raise InputError(f"{description}: the mean loss is {nll}; a dtype with more range may help (float32)")
    result = Result(
        model=checkpoint.given,
        name=checkpoint.name,
        encoding=encoding_label(checkpoint.config),
        train_length=None if checkpoint.training is None else checkpoint.training.train_length,
        protocol=protocol,
        length=windows.length,
        stride=stride,
        tokens_scored=windows.tokens_scored,
        blocks=len(windows.begins),
        segments_per_block=segments_per_block(checkpoint.config, text.ids, windows),
        nll=nll,
        perplexity=math.exp(nll),
        bits_per_byte=nll / math.log(2) / text.bytes_per_token,
        seconds=seconds,
        text_documents=text.documents,
        text_tokens=len(text.ids),
        text_sha256=text.sha256,
        bytes_per_token=text.bytes_per_token,
        model_fingerprint=checkpoint.fingerprint,
        config_fields=checkpoint.config_fields,
        commit=checkpoint.commit,
        loss_by_position=losses.bins(),
    )
    return result, losses.units


def measure_model(
    checkpoint: Checkpoint,
    text: Text,
    wanted: Sequence[tuple[str, int | None, int]],
    *,
    device: torch.device,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    batch_tokens: int = 8192,
    unit_tokens: int | None = None,
) -> Iterator[tuple[Result, LossSums | None]]:
    """One result after the other, for each protocol, stride (None but for `sliding`) and length in `wanted`.

    With each come the losses of the units that `text.units(unit_tokens)` has; None without `unit_tokens`.
    """
    model = checkpoint.load(device, dtype, attn_implementation)
    check_output_layer(model, text.ids)
    for protocol, stride, length in wanted:
        windows = make_windows(protocol, len(text.ids), length, STRIDE if stride is None else stride)
        yield _measure(checkpoint, model, text, protocol, windows, stride, batch_tokens, unit_tokens)


def evaluate(
    models: Sequence[str | Path],
    lengths: Sequence[int],
    *,
    data: str = DEFAULT_CORPUS,
    split: str = "validation",
    text_column: str = "text",
    validation_fraction: float | None = None,
    streaming: bool = False,
    protocols: Sequence[str] = ("blocks",),
    stride: int = STRIDE,
    max_tokens: int | None = None,
    batch_tokens: int = 8192,
    device: str | None = None,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    config_fields: dict[str, Any] | None = None,
    revision: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    command: str = "bipe_hf.lab.evaluation.evaluate",
) -> Evaluation:
    """Measures every model by every protocol at every length, each with the tokenizer in its folder.

    Args:
        models: folders written by `save_pretrained`, with model and tokenizer, or names of such on the Hub.
        lengths: tokens per window, distinct; for `sliding` and `tail` greater than `stride` and 256.
        data: what `bipe_hf.lab.data.load_documents` reads.
        split: `train` or `validation`.
        text_column: as in `load_documents`.
        validation_fraction: share of the documents that it holds out where the data has no splits; None takes that of
            the models' training (`training.json`), so that no text that they saw is scored.
        streaming: as in `load_documents`.
        protocols: names from `PROTOCOLS`.
        stride: tokens by which the window of `sliding` moves.
        max_tokens: score at most so many tokens of the text, its beginning; None for all of it.
        batch_tokens: tokens in a batch; it changes speed and memory, not results.
        device: a torch device; None takes the accelerator where there is one.
        dtype: one of `DTYPES`; `auto` is the dtype in which the model was saved.
        attn_implementation: as in `from_pretrained`.
        config_fields: fields of the models' configs that are set otherwise than they were saved, such as
            `{"rope_parameters": {"rope_type": "yarn", ...}}`.
        revision: branch, tag or commit of the models, all of which are on the Hub.
        output: JSON file, rewritten after each result, with tables beside it (`.md`); None writes nothing.
        overwrite: replace `output`.
        resume: keep the results in `output` and measure only what it lacks.
        command: recorded in the results.

    Returns:
        All results that `output` holds then, or that were measured.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: bad arguments, before the first model is loaded.
    """
    check_arguments(lengths, split, protocols, stride, max_tokens, batch_tokens)
    check_dtype(dtype)
    target = check_device(device)
    checkpoints = open_checkpoints(models, revision, config_fields)
    reading = {
        "text_column": text_column,
        "validation_fraction": held_out_fraction(
            checkpoints, data, validation_fraction, text_column=text_column, streaming=streaming
        ),
    }
    if output is not None:
        output = user_path(output)
        check_output(output, overwrite, resume)
    documents = load_documents(data, streaming=streaming, **reading)[split]
    digest = None if streaming else rows_digest(documents.select_columns("text"))
    evaluation = Evaluation(
        created=moment(),
        command=command,
        environment=describe_environment(target, dtype),
        data={"source": data, "split": split, **reading, "max_tokens": max_tokens, "sha256": digest},
        results=[],
    )
    if output is not None and resume and output.exists():
        evaluation.results = _earlier_results(output, evaluation)
        for checkpoint in checkpoints:
            own = [row.model_fingerprint for row in evaluation.results if row.subject == checkpoint.subject]
            say_if_outdated(output, checkpoint, own)
    texts = read_texts(documents, checkpoints, math.lcm(*lengths), max_tokens, f"{split} split of {data}")
    if split == "validation":
        warn_of_known_documents(checkpoints, documents, [text.documents for text in texts], data)

    for checkpoint, text in zip(checkpoints, texts, strict=True):
        finished = {(row.measurement, row.model_fingerprint, row.text_sha256) for row in evaluation.results}
        wanted = [
            (protocol, stride if protocol == "sliding" else None, at) for protocol in protocols for at in lengths
        ]
        missing = [
            row for row in wanted if ((checkpoint.subject, *row), checkpoint.fingerprint, text.sha256) not in finished
        ]
        if not missing:
            continue
        measured = measure_model(
            checkpoint,
            text,
            missing,
            device=target,
            dtype=dtype,
            attn_implementation=attn_implementation,
            batch_tokens=batch_tokens,
        )
        for result, _ in measured:
            kept = [earlier for earlier in evaluation.results if earlier.measurement != result.measurement]
            evaluation.results = [*kept, result]
            if output is not None:
                evaluation.save(output)
    return evaluation
