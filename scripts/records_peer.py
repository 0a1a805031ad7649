"""Models of `bipe-hf records` beside GReaT, a GPT-2 of rows as text (Borisov et al. 2023, arXiv 2210.06280).

    pip install be-great statsmodels
    python scripts/records_peer.py --output results/records/peer.json

GReaT writes a row as "age is 36, vote is Dole, ..." in a new random order of columns each time. Its code (`be_great`)
trains and reads the rows here; its pretrained GPT-2 is not used: a new GPT-2 of about as many parameters starts from
random weights, as ours does, with a BPE that is trained on its rows as text. Two things are not left at the defaults
of be_great 0.0.14, with which 1 % of the rows drawn for iris were valid: the tokenizer puts the end-of-text token
behind each row in training, since padding alone does not end rows that are all as long; and a row that is drawn starts
with its class, as often as it comes (`conditional_col`), not with a random number with noise and five decimals.

Tables that packages ship: iris and wine (scikit-learn), anes96 (statsmodels; without logpopul, which follows from
popul). The class is the first column. A fifth of the rows, drawn with the seed, is measured and seen by nobody before.
Both take 500 steps of 32 rows and keep the weights with the fewest bits on a tenth of the other rows. Ours learns with
the default rate, 3e-3; GReaT with the better of 3e-3 and 1e-3 on those rows with the first seed.

- bits: of a measured row, the ends of its fields and its own included. Ours: of all tokens. GReaT: of the values and
  what ends them, given the names of the columns in their order (mean of 5 orders), so that it pays neither for names
  nor for the order.
- valid: share of the rows drawn that have every column, with a number or a known class in it, whoever drew them.
- accuracy: of a random forest that learns the class from drawn rows, as many as there are to train on, on the measured
  rows; for real rows, from these.
- filled: measured rows whose class gets the highest probability given all other fields. Ours: by the whole row; from
  the left, where nothing stands before the first column, it is the most frequent class. GReaT: behind the others in
  random order. Real rows: the random forest.
- training, drawing: seconds of the processor with one thread, from the first step to the last; GReaT with one
  learning rate.

Every measurement is written as it comes; the same command goes on where it was stopped.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import ByteLevel, TemplateProcessing
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, set_seed

from bipe_hf.lab.common.results import describe_environment, in_words, moment, read_results, write_results
from bipe_hf.lab.common.tables import markdown
from bipe_hf.lab.records import RecordSettings, open_records, sample_rows, train_records
from bipe_hf.lab.records.fill import value_chances
from bipe_hf.lab.records.schema import Schema
from bipe_hf.lab.records.scoring import token_bits


FORMAT = "bipe-hf records peer 1"
SEEDS = (0, 1, 2)
STEPS, ROWS_PER_STEP, CHECKPOINT_STEPS = 500, 32, 50
LEARNING_RATES = (3e-3, 1e-3)
ORDERS = 5
TEMPERATURES = (1.0, 0.7)  # 0.7 is the default of be_great
MOST_DRAWS = 10
# Fields of the last columns of the table, and their digits.
SUMMED = {"filled": 3, "filled_from_left": 3, "training_seconds": 0, "sampling_seconds": 0}
OURS, PEER, REAL = "bipe_levels", "GReaT", "real rows"
END = "<|endoftext|>"
ENDS_ROW = TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 0)])
# From a temperature to valid rows and to how many were drawn.
Draw = Callable[[float], tuple[list[dict[str, str]], int]]


@dataclass
class Measured:
    """One method on one table with one seed; None where a number makes no sense."""

    table: str
    seed: int
    method: str
    parameters: int | None = None
    learning_rate: float | None = None
    bits: float | None = None
    bits_with_names: float | None = None
    valid: dict[str, float] | None = None
    accuracy: dict[str, float | None] | None = None
    filled: float | None = None
    filled_from_left: float | None = None
    training_seconds: float | None = None
    sampling_seconds: float | None = None


@dataclass
class Peer:
    """What the JSON file holds."""

    created: str
    command: str
    environment: dict[str, str]
    tables: dict[str, dict[str, int]]
    results: list[Measured]


def tables() -> dict[str, pd.DataFrame]:
    """Tables whose first column is a class and whose others are numbers."""
    from statsmodels.datasets import anes96

    found = {}
    for name, load in (("iris", load_iris), ("wine", load_wine)):
        content = load(as_frame=True)
        rows = content.data.copy()
        rows.insert(0, "class", content.target_names[content.target])
        found[name] = rows
    votes = anes96.load_pandas().data.drop(columns="logpopul").astype(int)
    vote = votes.pop("vote").map({0: "Clinton", 1: "Dole"})
    votes.insert(0, "vote", vote)
    found["anes96"] = votes
    return found


def split(rows: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to learn from, and a fifth to measure."""
    order = np.random.default_rng(seed).permutation(len(rows))
    cut = len(rows) // 5
    return rows.iloc[order[cut:]].reset_index(drop=True), rows.iloc[order[:cut]].reset_index(drop=True)


def as_text(rows: pd.DataFrame) -> list[dict[str, str]]:
    """Rows as texts by column."""
    return rows.astype(str).to_dict("records")


def forest_accuracy(learnt: Sequence[dict[str, str]], measured: Sequence[dict[str, str]], seed: int) -> float | None:
    """Of a random forest that learns the first column; None where there is nothing to learn."""
    name, *others = measured[0]
    if len({row[name] for row in learnt}) < 2:
        return None
    numbers = [[[float(row[other]) for other in others] for row in part] for part in (learnt, measured)]
    classes = [[row[name] for row in part] for part in (learnt, measured)]
    forest = RandomForestClassifier(random_state=seed).fit(numbers[0], classes[0])
    return float(forest.score(numbers[1], classes[1]))


def share_right(chosen: Sequence[int], rows: Sequence[dict[str, str]], schema: Schema) -> float:
    """The share of rows whose first column has the value of that number."""
    name, values = schema.columns[0].name, list(schema.columns[0].values)
    return fmean(values[at] == row[name] for at, row in zip(chosen, rows, strict=True))


# Ours


def measure_ours(rows: pd.DataFrame, held_out: pd.DataFrame, seed: int, folder: Path) -> tuple[Measured, Schema]:
    """Trained and used by `bipe_hf.lab.records`."""
    rows.to_csv(folder / "rows.csv", index=False)
    flags = {
        "seed": seed,
        "per_device_train_batch_size": ROWS_PER_STEP,
        "report_to": "none",
        "disable_tqdm": "true",
        "early_stopping_patience": STEPS,
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    start = time.process_time()
    result = train_records([folder / "rows.csv"], RecordSettings.read(None, words, folder / "ours"))
    seconds = time.process_time() - start
    used = open_records(folder / "ours", device="cpu")
    measured = as_text(held_out)
    column = used.schema.columns[0]
    whole, left = (value_chances(used, measured, column, from_left=each).argmax(axis=1) for each in (False, True))
    own = Measured(
        table="",
        seed=seed,
        method=OURS,
        parameters=result["parameters"],
        bits=float(np.sum([sum(row) for row in used.bits(used.fields(measured))])) / len(measured),
        filled=share_right(whole, measured, used.schema),
        filled_from_left=share_right(left, measured, used.schema),
        training_seconds=seconds,
    )

    def draw(temperature: float) -> tuple[list[dict[str, str]], int]:
        sample = sample_rows(used, len(rows), temperature=temperature, seed=seed)
        return list(map(dict, sample.rows)), sample.drawn

    return with_draws(own, draw, len(rows), measured), used.schema


def with_draws(own: Measured, draw: Draw, count: int, measured: Sequence[dict[str, str]]) -> Measured:
    """What so many of the rows that `draw` gives at each temperature are worth."""
    own.valid, own.accuracy, own.sampling_seconds = {}, {}, 0.0
    for temperature in TEMPERATURES:
        start = time.process_time()
        valid, drawn = draw(temperature)
        own.sampling_seconds += (time.process_time() - start) / len(TEMPERATURES)
        own.valid[str(temperature)] = len(valid) / drawn
        own.accuracy[str(temperature)] = forest_accuracy(valid[:count], measured, own.seed)
    return own


# GReaT


def written(row: dict[str, str], order: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """A row as be_great's `GReaTDataset` writes it, with its end, and where its values stand with what ends them."""
    text, values = "", []
    for at, name in enumerate(order):
        text += f"{', ' if at else ''}{name} is"
        text += f" {row[name]}"
        values.append((len(text) - len(row[name]) - 1, len(text) + 1))
    return text + END, values


def new_gpt2(rows: Sequence[dict[str, str]], folder: Path, seed: int) -> int:
    """A GPT-2 of our size with a BPE of its own, in a folder that be_great loads; returns its parameters."""
    draws = random.Random(seed)
    texts = [written(row, draws.sample(list(row), len(row)))[0] for row in rows for _ in range(ORDERS)]
    texts = [text.removesuffix(END) for text in texts]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)
    set_seed(seed)
    config = GPT2Config(
        vocab_size=len(fast), n_positions=512, n_embd=128, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config)
    for part in (fast, model):
        part.save_pretrained(folder)
    return model.num_parameters()


def peer_bits(model, tokenizer, rows: Sequence[dict[str, str]], orders: int) -> tuple[float, float]:
    """Bits of a row, of its values alone and with the names, over so many random orders of columns."""
    draws = random.Random(0)
    texts = [written(row, draws.sample(list(row), len(row))) for row in rows for _ in range(orders)]
    encoded = tokenizer([text for text, _ in texts], return_offsets_mapping=True)
    of_values = of_all = 0.0
    for (_, values), offsets, bits in zip(
        texts, encoded["offset_mapping"], token_bits(model, encoded["input_ids"]), strict=True
    ):
        is_value = [any(first <= start < end for first, end in values) for start, _ in offsets[1:]]
        of_values += bits[is_value].sum()
        of_all += bits.sum()
    return float(of_values / len(texts)), float(of_all / len(texts))


def measure_peer(
    rows: pd.DataFrame, held_out: pd.DataFrame, seed: int, folder: Path, schema: Schema, rates: Sequence[float]
) -> Measured:
    """Trained by be_great, from the weights of [`new_gpt2`], with the best of some learning rates."""
    from be_great import GReaT

    cut = max(1, len(rows) // 10)
    validation, learnt = as_text(rows.iloc[:cut]), rows.iloc[cut:]
    best = None
    for rate in rates:
        parameters = new_gpt2(as_text(learnt), folder / "gpt2", seed)
        set_seed(seed)
        great = GReaT(
            str(folder / "gpt2"),
            str(folder / f"great-{rate}"),
            batch_size=ROWS_PER_STEP,
            max_steps=STEPS,
            save_steps=CHECKPOINT_STEPS,
            learning_rate=rate,
            lr_scheduler_type="cosine",
            warmup_steps=50,
            weight_decay=0.1,
            adam_beta2=0.95,
            use_cpu=True,
            seed=seed,
        )
        great.tokenizer.backend_tokenizer.post_processor = ENDS_ROW
        start = time.process_time()
        great.fit(learnt, conditional_col=learnt.columns[0], random_conditional_col=False)
        seconds = time.process_time() - start
        great.tokenizer.backend_tokenizer.post_processor = ByteLevel()
        for checkpoint in sorted((folder / f"great-{rate}").glob("checkpoint-*")):
            model = GPT2LMHeadModel.from_pretrained(checkpoint).eval()
            bits, _ = peer_bits(model, great.tokenizer, validation, ORDERS)
            if best is None or bits < best[0]:
                best = bits, great, model, seconds, rate
    _, great, great.model, seconds, rate = best
    measured = as_text(held_out)
    bits, with_names = peer_bits(great.model, great.tokenizer, measured, ORDERS)
    own = Measured(
        table="",
        seed=seed,
        method=PEER,
        parameters=parameters,
        learning_rate=rate,
        bits=bits,
        bits_with_names=with_names,
        filled=peer_filled(great, measured, schema),
        training_seconds=seconds,
    )
    texts = [written(row, list(row))[0] for row in as_text(rows)]
    length = 20 + max(map(len, great.tokenizer(texts)["input_ids"]))  # another order may take some tokens more

    def draw(temperature: float) -> tuple[list[dict[str, str]], int]:
        return draw_peer(great, len(rows), length, temperature, schema, seed)

    return with_draws(own, draw, len(rows), measured)


def peer_filled(great, rows: Sequence[dict[str, str]], schema: Schema) -> float:
    """The share of rows whose first column is the likeliest value behind the others, which stand in random order."""
    column, draws = schema.columns[0], random.Random(0)
    texts = []
    for row in rows:
        order = draws.sample(schema.names[1:], len(schema.names) - 1)
        texts += [written({**row, column.name: value}, [*order, column.name])[0] for value in column.values]
    bits = [each.sum() for each in token_bits(great.model, great.tokenizer(texts)["input_ids"])]
    chosen = np.array(bits).reshape(len(rows), -1).argmin(axis=1)
    return share_right(chosen, rows, schema)


def draw_peer(
    great, count: int, length: int, temperature: float, schema: Schema, seed: int
) -> tuple[list[dict[str, str]], int]:
    """Valid rows, and how many were drawn: the steps of be_great's `sample`, with what it throws away counted."""
    from be_great.great_utils import _convert_text_to_tabular_data, _convert_tokens_to_text

    set_seed(seed)
    valid, drawn = [], 0
    while len(valid) < count and drawn < MOST_DRAWS * count:
        start = torch.tensor(great._get_start_sampler("", None).get_start_tokens(min(100, count)))
        ids = great.model.generate(
            input_ids=start,
            attention_mask=(start != great.tokenizer.pad_token_id).long(),
            max_length=length,
            do_sample=True,
            temperature=temperature,
            pad_token_id=great.tokenizer.pad_token_id,
        )
        found = _convert_text_to_tabular_data(_convert_tokens_to_text(ids, great.tokenizer), schema.names)
        drawn += len(found)
        rows = found.astype(str).to_dict("records")
        valid += [row for row in rows if all(column.accepts(row[column.name]) for column in schema.columns)]
    return valid, drawn


# The whole


def measure(rows: pd.DataFrame, seed: int, done: set[str], rates: Sequence[float]) -> Iterator[Measured]:
    """What each method makes of a table, but for what is done; `rates` are those that the peer tries."""
    learnt, held_out = split(rows, seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if REAL not in done:
            accuracy = forest_accuracy(as_text(learnt), as_text(held_out), seed)
            yield Measured("", seed, REAL, accuracy={"1.0": accuracy}, filled=accuracy)
        if {OURS, PEER} <= done:
            return
        own, schema = measure_ours(learnt, held_out, seed, folder)  # the schema says what a valid row is
        if OURS not in done:
            yield own
        if PEER not in done:
            yield measure_peer(learnt, held_out, seed, folder, schema, rates)


def spread(values: Sequence[float | None], digits: int) -> str:
    """Mean and standard deviation over seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    deviation = f" ± {stdev(known):.{digits}f}" if len(known) > 1 else ""
    lacking = f" ({len(known)} of {len(values)} seeds)" if len(known) < len(values) else ""
    return f"{fmean(known):.{digits}f}{deviation}{lacking}"


def summary(peer: Peer) -> str:
    """The Markdown page."""
    heading = ["table", "method", "parameters", "bits a row", "valid, T = 1", "T = 0.7", "accuracy, T = 1", "T = 0.7"]
    heading += ["filled", "from the left", "training, s", "drawing, s"]
    lines = [heading]
    for table in peer.tables:
        for method in (OURS, PEER, REAL):
            own = [row for row in peer.results if (row.table, row.method) == (table, method)]
            if not own:
                continue
            cells = [table, method, f"{own[0].parameters:,}" if own[0].parameters else "-"]
            cells.append(spread([row.bits for row in own], 1))
            for field in ("valid", "accuracy"):
                for temperature in map(str, TEMPERATURES):
                    cells.append(spread([(vars(row)[field] or {}).get(temperature) for row in own], 3))
            for field, digits in SUMMED.items():
                cells.append(spread([vars(row)[field] for row in own], digits))
            lines.append(cells)
    sizes = "; ".join(f"{name}: {size['rows']} rows, {size['columns']} columns" for name, size in peer.tables.items())
    explained = __doc__.split("\n\n", 2)[2].rsplit("\n\n", 1)[0]
    seeds = f"Mean ± standard deviation of seeds {', '.join(map(str, SEEDS))}."
    head = f"`{peer.command}`, {peer.created}, {in_words(peer.environment)}. {sizes}. {seeds}"
    return "\n\n".join(["# Rows: `bipe-hf records` beside GReaT", head, markdown(lines), explained]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, required=True, help="JSON file to write; the table goes beside it as .md"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    content = tables()
    if arguments.output.exists():
        peer = read_results(arguments.output, FORMAT, Peer, Measured, "scripts/records_peer.py")
    else:
        environment = describe_environment(torch.device("cpu"), "float32")
        environment |= {name: version(name) for name in ("be-great", "scikit-learn", "statsmodels")}
        sizes = {name: {"rows": len(rows), "columns": rows.shape[1]} for name, rows in content.items()}
        peer = Peer(moment(), f"python scripts/records_peer.py --output {arguments.output}", environment, sizes, [])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        for name, rows in content.items():
            done = {row.method for row in peer.results if (row.table, row.seed) == (name, seed)}
            chosen = [row.learning_rate for row in peer.results if (row.table, row.method) == (name, PEER)]
            for measured in measure(rows, seed, done, chosen[:1] or LEARNING_RATES):
                measured.table = name
                peer.results.append(measured)
                write_results(arguments.output, FORMAT, peer, lambda: summary(peer))
                print(asdict(measured), flush=True)
    write_results(arguments.output, FORMAT, peer, lambda: summary(peer))


if __name__ == "__main__":
    main()
