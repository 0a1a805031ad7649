"""Pass key retrieval by length and depth (Mohtashami and Jaggi 2023): how often a model finds a number in a long text.

The length of a prompt counts every token of it: task, text, key, question and a beginning-of-text token where the
tokenizer puts one. A prompt holds as much text as fits, in whole sentences (or words, where it comes from data), so it
is at most that long. The answer, up to `ANSWER_TOKENS` tokens chosen greedily, comes on top. A key is found where the
first number of the answer is that key.
"""

import datetime
import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ....model.errors_bipe import InputError, InputExistsError
from ...common.checkpoints import Checkpoint, encoding_label, open_checkpoints
from ...common.devices import check_device, check_dtype
from ...common.figures import pictures, require_matplotlib, save_figure
from ...common.generation import write_greedily
from ...common.results import check_output, describe_environment, read_results, write_results
from ...common.tables import aligned, markdown
from ...data import load_documents
from ...evaluation.text import held_out_fraction
from .prompts import CLASSIC_FILLER, Filler, Prompt, check_length, encode, make_prompt, words_filler


FORMAT = "bipe-hf passkey 1"
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Enough for a space, five digits and what ends the number, each in a token of its own, and a few words before it.
ANSWER_TOKENS = 16
# Words of data to take text from: whatever the lengths, so that others can be added to a file of results.
TEXT_WORDS = 1_000_000


@dataclass(frozen=True)
class PasskeyResult:
    """One model at one length and depth: `found` of `samples` keys.

    `prompt_tokens` is the mean length of the prompts, `seconds` is wall time.
    """

    model: str
    name: str
    encoding: str
    train_length: int | None
    length: int
    depth: float
    found: int
    samples: int
    accuracy: float
    prompt_tokens: float
    seconds: float
    model_fingerprint: str


@dataclass
class PasskeyEvaluation:
    """Results with what is needed to repeat them; `save` and `load` keep it as JSON."""

    created: str
    command: str
    environment: dict
    settings: dict
    results: list[PasskeyResult]

    def save(self, path: Path) -> None:
        """Write the JSON file and its table (suffix `.md`), each replaced as a whole or not at all."""
        text = "the sentences of the paper" if self.settings["data"] is None else self.settings["data"]
        summary = (
            f"`{self.command}`: share of {self.settings['samples']} pass keys found in {text} by length of the prompt"
            f" in tokens, seed {self.settings['seed']}, measured {self.created}"
        )
        write_results(path, FORMAT, self, f"{summary}\n\n{markdown(_table(self.results))}\n")

    @classmethod
    def load(cls, path: str | Path) -> "PasskeyEvaluation":
        """Read what `save` wrote; raises as `read_results` does."""
        return read_results(path, FORMAT, cls, PasskeyResult, "passkey")


def passkey_table(results: Sequence[PasskeyResult]) -> str:
    """Aligned plain text: a row for each depth of each model, a column for each length."""
    return aligned(_table(results))


def _table(results: Sequence[PasskeyResult]) -> list[list[str]]:
    lengths = sorted({result.length for result in results})
    rows = [["model", "depth", *map(str, lengths)]]
    for model in dict.fromkeys(result.model for result in results):
        own = [result for result in results if result.model == model]
        title = f"{own[0].name} ({own[0].encoding})"
        cells = {(result.depth, result.length): result.accuracy for result in own}
        depths = sorted({result.depth for result in own})
        for depth in depths:
            rows.append([title, f"{depth:g}", *(_percent([cells.get((depth, length))]) for length in lengths)])
        means = [_percent([cells.get((depth, length)) for depth in depths]) for length in lengths]
        rows.append([title, "mean", *means])
    return rows


def _percent(accuracies: Sequence[float | None]) -> str:
    """Their mean; a dash where one is missing."""
    return "-" if None in accuracies else f"{sum(accuracies) / len(accuracies):.1%}"


def measure_passkey(
    models: Sequence[str | Path],
    lengths: Sequence[int],
    *,
    depths: Sequence[float] = DEPTHS,
    samples: int = 20,
    seed: int = 0,
    data: str | None = None,
    text_column: str = "text",
    batch_tokens: int = 8192,
    revision: str | None = None,
    device: str | None = None,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    command: str = "bipe_hf.lab.tasks.passkey.run.measure_passkey",
) -> PasskeyEvaluation:
    """Measure every model at every length and depth, each with the tokenizer in its folder.

    Args:
        models, revision: as in `evaluate`.
        lengths: of the prompts in tokens, distinct.
        depths: share of the text that stands before the key, from 0 to 1, distinct.
        samples: prompts at each length and depth, each with a key of its own.
        seed: of keys and text. The same one gives the same prompts to every model with the same tokenizer.
        data: what `bipe_hf.lab.data.load_documents` reads, to hide the key in the first `TEXT_WORDS` words of its
            validation split (held out as in the models' training); None hides it in the sentences of the paper.
        text_column: as in `load_documents`.
        batch_tokens: tokens in a batch; it changes speed and memory, not results.
        device, dtype, attn_implementation, overwrite, resume, command: as in `evaluate`.
        output: JSON file, rewritten after each length and depth, with a table beside it (`.md`) and the heat map of
            each model (`.png` and `.svg`); None writes nothing.

    Raises `ValueError`, `FileNotFoundError` or `FileExistsError` for bad arguments before the first model is loaded.
    """
    _check_arguments(lengths, depths, samples, batch_tokens)
    check_dtype(dtype)
    target = check_device(device)
    candidates = open_checkpoints(models, revision)
    earlier = None
    if output is not None:
        output = Path(output)
        require_matplotlib("output")
        check_output(output, overwrite, resume)
        if resume and output.exists():
            earlier = PasskeyEvaluation.load(output)
        _check_pictures(output, candidates, [] if earlier is None else earlier.results, overwrite)
    fraction = None if data is None else held_out_fraction(candidates, data, None)
    filler = CLASSIC_FILLER
    if data is not None:
        held_out = load_documents(data, text_column=text_column, validation_fraction=fraction)["validation"]
        filler = words_filler((row["text"] for row in held_out), TEXT_WORDS)
    evaluation = PasskeyEvaluation(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        environment=describe_environment(target, dtype),
        settings={
            "samples": samples,
            "seed": seed,
            "data": data,
            "text_column": text_column,
            "validation_fraction": fraction,
            "text_sha256": hashlib.sha256("".join(filler.pieces).encode()).hexdigest(),
        },
        results=[],
    )
    if earlier is not None:
        if earlier.settings != evaluation.settings or earlier.environment["dtype"] != dtype:
            raise InputError(f"resume: {output} holds results with other settings (--overwrite replaces it)")
        fingerprints = {candidate.given: candidate.fingerprint for candidate in candidates}
        evaluation.results = [  # without those of weights that have changed since
            row
            for row in earlier.results
            if fingerprints.get(row.model, row.model_fingerprint) == row.model_fingerprint
        ]
    for candidate in candidates:
        _check_candidate(candidate, filler, lengths, depths, samples, seed)

    for candidate in candidates:
        finished = {(row.length, row.depth) for row in evaluation.results if row.model == candidate.given}
        missing = [place for place in product(lengths, depths) if place not in finished]
        if missing:
            model = candidate.load(target, dtype, attn_implementation)
            for length, depth in missing:
                prompts = [
                    make_prompt(candidate.tokenizer, filler, length, depth, sample, seed) for sample in range(samples)
                ]
                evaluation.results.append(_measure(candidate, model, prompts, length, depth, batch_tokens))
                if output is not None:
                    evaluation.save(output)
            del model  # before the next one is loaded
        if output is not None:
            from .picture import draw_heat_map

            own = [row for row in evaluation.results if row.model == candidate.given]
            save_figure(draw_heat_map(own), _picture(output, candidate.name))
    return evaluation


def _check_arguments(lengths: Sequence[int], depths: Sequence[float], samples: int, batch_tokens: int) -> None:
    for name, given in (("lengths", lengths), ("depths", depths)):
        if not given:
            raise InputError(f"{name}: give at least one")
        if len(set(given)) < len(given):
            raise InputError(f"{name}: the same one is given twice in {', '.join(map(str, given))}")
    for depth in depths:
        if not 0 <= depth <= 1:  # nan included
            raise InputError(f"depths: {depth} is not between 0 (before the text) and 1 (behind it)")
    for name, number in (("samples", samples), ("batch_tokens", batch_tokens)):
        if number < 1:
            raise InputError(f"{name}: {number} is less than 1")


def _check_candidate(
    candidate: Checkpoint, filler: Filler, lengths: Sequence[int], depths: Sequence[float], samples: int, seed: int
) -> None:
    tokenizer = candidate.tokenizer
    if encode(tokenizer, "a")[-1] == tokenizer.eos_token_id:
        raise InputError(f"model {candidate.given}: its tokenizer ends a prompt with end-of-text, so none is answered")
    for length in lengths:
        try:
            check_length(tokenizer, filler, length, depths, samples, seed)
        except ValueError as error:
            raise InputError(f"{error} (tokenizer of {candidate.given})") from error


def _picture(output: Path, name: str) -> Path:
    """The PNG file of the heat map of the model with this name; the SVG file goes beside it."""
    return output.with_name(f"{output.stem}-{re.sub(r'[^A-Za-z0-9._]+', '-', name)}.png")


def _check_pictures(
    output: Path, candidates: Sequence[Checkpoint], earlier: Sequence[PasskeyResult], overwrite: bool
) -> None:
    """Refuses heat maps that would replace anything but that of `earlier` results of the same model."""
    owners = {_picture(output, row.name): row.model for row in earlier}
    for candidate in candidates:
        picture = _picture(output, candidate.name)
        for file in pictures(picture):
            if file.exists() and picture not in owners and not overwrite:
                raise InputExistsError(f"output: {file} exists (--overwrite replaces it)")
        owner = owners.setdefault(picture, candidate.given)
        if owner != candidate.given:
            raise InputError(
                f"models: the heat maps of {owner} and {candidate.given} would share the file {picture} (measure them"
                " into two outputs)"
            )


def _measure(
    candidate: Checkpoint,
    model: PreTrainedModel,
    prompts: Sequence[Prompt],
    length: int,
    depth: float,
    batch_tokens: int,
) -> PasskeyResult:
    start = time.perf_counter()
    batch = max(1, batch_tokens // length)
    found = 0
    with tqdm(total=len(prompts), desc=f"{candidate.name} {length} at {depth:g}", unit="key") as bar:
        for first in range(0, len(prompts), batch):
            some = prompts[first : first + batch]
            answers = answer(model, candidate.tokenizer, [prompt.input_ids for prompt in some])
            found += sum(first_number(text) == prompt.key for text, prompt in zip(answers, some, strict=True))
            bar.update(len(some))
        bar.set_postfix(found=f"{found}/{len(prompts)}")
    return PasskeyResult(
        model=candidate.given,
        name=candidate.name,
        encoding=encoding_label(candidate.config),
        train_length=None if candidate.training is None else candidate.training.train_length,
        length=length,
        depth=depth,
        found=found,
        samples=len(prompts),
        accuracy=found / len(prompts),
        prompt_tokens=sum(len(prompt.input_ids) for prompt in prompts) / len(prompts),
        seconds=time.perf_counter() - start,
        model_fingerprint=candidate.fingerprint,
    )


def first_number(text: str) -> str | None:
    """The first run of the digits 0 to 9."""
    found = re.search(r"[0-9]+", text)
    return None if found is None else found[0]


def answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]]) -> list[str]:
    """What the model writes after each prompt (token ids): up to `ANSWER_TOKENS` tokens, each the likeliest."""
    # Behind an answer that has ended it must be a token that decodes to nothing.
    padding = 0 if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    written = write_greedily(model, prompts, ANSWER_TOKENS, pad_token_id=padding)
    return tokenizer.batch_decode(written, skip_special_tokens=True)
