"""Indices of long texts: stretched and skipped ones in training, scaled rotary angles at inference."""

import functools
import json
import math
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from interruption import interrupt
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorWithFlattening,
    DynamicCache,
    LlamaConfig,
    TrainerControl,
    TrainerState,
)
from words import write_corpus

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM
from bipe_hf.lab.data import SkippedIndices, StretchedIndices, load_documents, make_blocks, tokenize_documents
from bipe_hf.lab.data.index_extension import IndexExtension
from bipe_hf.lab.data.segments import mean_segment_length, segment_batch
from bipe_hf.lab.training import pretrain
from bipe_hf.model.compatibility_bipe import CACHE_NAME
from bipe_hf.model.segmentation_bipe import document_starts


EXTENSIONS = {"index_stretch": StretchedIndices, "index_skip": SkippedIndices}
SEGMENTATIONS = {
    "separators": {},
    "fixed": {"segmentation": "fixed", "fixed_segment_length": 3},
    "tokens": {"segmentation": "tokens"},
}
SEPARATOR, WORD, PADDING = 3, 5, 0

every_extension = pytest.mark.parametrize("extension_class", EXTENSIONS.values())
pytestmark = pytest.mark.usefixtures("own_datasets_cache", "no_progress_bars")


class Tripled(IndexExtension):
    """Draws nothing: what becomes of the indices can be told by hand."""

    def draw(self, count, generator):
        return 3 * np.arange(count)


class Scripted:
    """A random generator whose draws are given, and whose ranges can be asked for afterwards."""

    def __init__(self, *draws):
        self.draws = list(draws)
        self.ranges = []

    def uniform(self, low, high):
        self.ranges.append((low, high))
        return self.draws.pop(0)

    def integers(self, low, high, endpoint):
        assert endpoint
        self.ranges.append((low, high))
        return self.draws.pop(0)

    def permutation(self, count):
        first = self.draws.pop(0)
        return np.array([*first, *sorted(set(range(count)) - set(first))])


def config(**fields):
    return BipeLlamaConfig(**{"vocab_size": 60, "separator_token_ids": [SEPARATOR], **fields})


def as_given(batch):
    return batch


def batch_of(*rows):
    """Rows of letters: w a word, . a separator, W and ! the same as first of a packed document, _ padding."""
    batch = {
        "input_ids": [[{"_": PADDING, "w": WORD, "W": WORD}.get(letter, SEPARATOR) for letter in row] for row in rows],
        "attention_mask": [[int(letter != "_") for letter in row] for row in rows],
    }
    if any(letter in "W!" for row in rows for letter in row):
        batch["position_ids"] = [positions_of(row) for row in rows]
    return {name: torch.tensor(values) for name, values in batch.items()}


def positions_of(row):
    positions = []
    for letter in row:
        positions.append(0 if letter in "W!" or not positions else positions[-1] + 1)
    return positions


# By hand


@pytest.mark.parametrize(
    ("count", "factor", "indices"),
    [(5, 2.5, [0, 2, 5, 7, 10]), (5, 1.0, [0, 1, 2, 3, 4]), (4, 3.999, [0, 3, 7, 11]), (1, 7.0, [0])],
)
def test_stretched_indices_counted_by_hand(count, factor, indices):
    generator = Scripted(factor)
    assert StretchedIndices(as_given, config(), 8.0).draw(count, generator).tolist() == indices
    assert generator.ranges == [(1, 8.0)]


@pytest.mark.parametrize(
    ("count", "extension", "chunks", "draws", "indices", "ranges"),
    [
        (6, 4.0, 2, [[2], 10], [0, 1, 2, 13, 14, 15], [(0, 18)]),
        (6, 4.0, 2, [[0], 18], [0, 19, 20, 21, 22, 23], [(0, 18)]),
        (6, 4.0, 2, [[4], 0], [0, 1, 2, 3, 4, 5], [(0, 18)]),
        (6, 4.0, 3, [[3, 1], 5, 9], [0, 1, 7, 8, 13, 14], [(0, 18), (5, 18)]),
        (3, 2.5, 2, [[1], 5], [0, 1, 7], [(0, 5)]),  # 7 is the last index below 2.5 * 3
        (2, 4.0, 3, [[0], 6], [0, 7], [(0, 6)]),  # no border for a third chunk
        (1, 4.0, 2, [[]], [0], []),
    ],
)
def test_skipped_indices_counted_by_hand(count, extension, chunks, draws, indices, ranges):
    generator = Scripted(*draws)
    collator = SkippedIndices(as_given, config(), extension, chunks=chunks)
    assert collator.draw(count, generator).tolist() == indices
    assert generator.ranges == ranges


@pytest.mark.parametrize(
    ("row", "segment_ids"),
    [
        ("ww.w..w", [0, 0, 0, 3, 3, 6, 9]),
        ("__w.w", [-1, -1, 0, 0, 3]),
        ("w.w__", [0, 0, 3, -1, -1]),
        ("w.wWw.w!w", [0, 0, 3, 0, 0, 0, 3, 0, 3]),
        ("w._W.w_", [0, 0, -1, 0, 0, 3, -1]),
        ("___", [-1, -1, -1]),
    ],
)
def test_every_document_gets_its_indices(row, segment_ids):
    assert Tripled(as_given, config(), 4.0)(batch_of(row))["segment_ids"].tolist() == [segment_ids]


def test_rows_of_a_batch_have_their_own_documents():
    batch = Tripled(as_given, config(), 4.0)(batch_of("w.ww.", "w.W.w", "___w."))
    assert batch["segment_ids"].tolist() == [[0, 0, 3, 3, 3], [0, 0, 0, 0, 3], [-1, -1, -1, 0, 0]]


@pytest.mark.parametrize(
    ("fields", "segment_ids"),
    [
        ({"segmentation": "tokens"}, [0, 3, 6, 0, 3, -1]),
        ({"segmentation": "fixed", "fixed_segment_length": 2}, [0, 0, 3, 0, 0, -1]),
    ],
)
def test_every_segmentation_is_extended(fields, segment_ids):
    batch = Tripled(as_given, config(**fields), 4.0)(batch_of("w..Ww_"))
    assert batch["segment_ids"].tolist() == [segment_ids]


def test_segment_ids_of_another_tokenizer_are_those_that_the_model_finds():
    batch = batch_of("w.w.w") | {"segment_ids": torch.tensor([[0, 0, 0, 0, 1]])}
    assert Tripled(as_given, config(), 4.0)(batch)["segment_ids"].tolist() == [[0, 0, 3, 3, 6]]


def test_segment_ids_of_the_collator_with_other_numbers_are_those_that_are_extended():
    batch = batch_of("w.w.w") | {"segment_ids": torch.tensor([[0, 0, 2, 2, 3]])}
    assert Tripled(as_given, config(), 4.0)(batch)["segment_ids"].tolist() == [[0, 0, 6, 6, 9]]


def test_everything_else_of_the_batch_stays_as_it_is():
    batch = batch_of("w.wWw.", "__w.w!") | {"labels": torch.arange(12).view(2, 6)}
    extended = StretchedIndices(as_given, config(), 8.0)(batch)
    assert extended.keys() == batch.keys() | {"segment_ids"}
    assert all(torch.equal(extended[name], batch[name]) for name in batch)


# Properties


def documents_of(row):
    """Columns of each document, and the segment of each of its tokens."""
    documents = []
    for column, letter in enumerate(row):
        if letter == "_":
            continue
        if letter in "W!" or not documents:
            documents.append(([], [0]))
        columns, segments = documents[-1]
        columns.append(column)
        segments.append(segments[-1] + (letter in ".!"))
    return [(columns, segments[:-1]) for columns, segments in documents]


@every_extension
@settings(max_examples=150, deadline=None)
@given(
    length=st.integers(1, 24),
    data=st.data(),
    extension=st.floats(1, 40, exclude_min=True),
    seed=st.integers(0, 2**32 - 1),
)
def test_indices_rise_at_borders_and_nowhere_else(extension_class, length, data, extension, seed):
    rows = data.draw(st.lists(st.text("w.W!_", min_size=length, max_size=length), min_size=1, max_size=3))
    collator = extension_class(as_given, config(), extension, seed=seed)
    segment_ids = collator(batch_of(*rows))["segment_ids"].tolist()
    for row, ids in zip(rows, segment_ids, strict=True):
        assert [ids[column] for column, letter in enumerate(row) if letter == "_"] == [-1] * row.count("_")
        for columns, segments in documents_of(row):
            new = [ids[column] for column in columns]
            assert new[0] == 0
            for (old_left, old_right), (left, right) in zip(pairwise(segments), pairwise(new), strict=True):
                assert (left < right) if old_left < old_right else (left == right)
            assert new[-1] < extension * (segments[-1] + 1)
            jumps = Counter(right - left for left, right in pairwise(sorted(set(new))))
            if extension_class is SkippedIndices:
                assert jumps.total() - jumps[1] <= 1
            else:
                assert len(jumps) <= 2  # the factor, rounded down or up


@pytest.mark.parametrize(("extension_class", "last"), [(StretchedIndices, [2, 3]), (SkippedIndices, [2, 3, 4, 5])])
def test_draws_reach_the_whole_range(extension_class, last):
    """Of three indices extended to twice as many."""
    batch = batch_of("...")
    found = {
        extension_class(as_given, config(), 2.0, seed=seed)(batch)["segment_ids"][0, -1].item() for seed in range(200)
    }
    assert sorted(found) == last


def test_skips_stand_at_every_border():
    batch = batch_of("w." * 5)
    places = set()
    for seed in range(200):
        ids = SkippedIndices(as_given, config(), 40.0, seed=seed)(batch)["segment_ids"][0]
        places.update((ids.diff() > 1).nonzero().flatten().tolist())
    assert places == {1, 3, 5, 7}


# In the model


@pytest.mark.parametrize("fields", SEGMENTATIONS.values(), ids=SEGMENTATIONS)
@pytest.mark.parametrize("rows", [("w.ww..w", "__w.w.w"), ("w.wW.w.", "w.._w!w")], ids=["padded", "packed"])
def test_the_model_finds_the_same_segments_and_intra_positions(family, tiny_model, fields, rows):
    """Without the indices, segments are those that are extended; with them, intra positions are still the same."""
    model = tiny_model(family, **fields)
    batch = batch_of(*rows)
    is_token = batch["attention_mask"].bool()
    starts_document = document_starts(batch["position_ids"], is_token) if "position_ids" in batch else None
    own = model.base_model.segment(batch["input_ids"], is_token=is_token, starts_document=starts_document)
    found = segment_batch(batch, model.config)
    assert all(torch.equal(*each) for each in zip(own[:3], found[:3], strict=True))

    segment_ids = StretchedIndices(as_given, model.config, 8.0)(batch)["segment_ids"]
    extended = model.base_model.segment(
        batch["input_ids"], is_token=is_token, starts_document=starts_document, segment_ids=segment_ids
    )
    assert torch.equal(extended.segment_ids, segment_ids)
    assert torch.equal(extended.intra_positions, own.intra_positions)


@every_extension
def test_packed_documents_with_their_indices_equal_each_alone(model, extension_class):
    documents = [[5, 3, 8, 7, 9, 9, 3, 4], [6, 7, 5, 3, 3, 8, 3], [4, 11, 5]]
    collator = extension_class(DataCollatorWithFlattening(return_position_ids=True), model.config, 8.0)
    batch = collator([{"input_ids": ids} for ids in documents])
    del batch["labels"]
    assert not torch.equal(
        batch["segment_ids"], segment_batch({**batch, "segment_ids": None}, model.config).segment_ids
    )
    packed = model(**batch, use_cache=False).logits[0]
    start = 0
    for ids in documents:
        end = start + len(ids)
        alone = extension_class(as_given, model.config, 8.0)({"input_ids": torch.tensor([ids])})
        assert torch.equal(alone["segment_ids"][0], batch["segment_ids"][0, start:end])
        torch.testing.assert_close(model(**alone).logits[0], packed[start:end], rtol=0, atol=2e-5)
        start = end


# What draws depend on


def rows_of(count=12, length=20):
    draw = random.Random(0)
    return ["".join(draw.choices("ww.", k=length)) for _ in range(count)]


@every_extension
def test_draws_depend_on_seed_pass_and_tokens_alone(extension_class):
    rows = rows_of()

    def draws(batches, seed=0, passes=0):
        collator = extension_class(as_given, config(), 8.0, seed=seed)
        collator.passes.fill_(passes)
        return torch.cat([collator(batch_of(*batch))["segment_ids"] for batch in batches])

    whole = draws([rows])
    assert torch.equal(draws([rows]), whole)
    assert torch.equal(draws([rows[:5], rows[5:6], rows[6:]]), whole)
    assert torch.equal(draws([rows[::-1]]), whole.flip(0))
    for other in (draws([rows], seed=1), draws([rows], passes=1)):
        assert (other != whole).any(dim=1).sum() > 8  # some rows may draw the same
    assert len({tuple(row) for row in draws([[rows[0]], [rows[0]]]).tolist()}) == 1


def test_every_pass_draws_anew_in_workers_that_outlive_it():
    batches = [batch_of(row) for row in rows_of(4)]
    collator = StretchedIndices(lambda batches: batches[0], config(), 8.0)
    state, control = TrainerState(), TrainerControl()
    loaders = [
        DataLoader(batches, collate_fn=collator, num_workers=workers, persistent_workers=workers > 0)
        for workers in (0, 2)
    ]
    seen = []
    for loader in loaders:
        collator.on_train_begin(None, state, control)
        for _ in range(2):
            collator.on_epoch_begin(None, state, control)
            seen.append(torch.cat([batch["segment_ids"] for batch in loader]))
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])


# Bad input


@every_extension
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inter_encoding": "none"}, "a model with inter_encoding none has no index to extend"),
        ({"segmentation": "document"}, "with segmentation document every index is 0"),
        ({"separator_token_ids": []}, "without separator_token_ids every index is 0"),
        (
            {"inter_encoding": "hybrid", "hybrid_max_period": 8.0, "hybrid_alibi_scale": 0},
            "a hybrid with hybrid_slow_pairs none and hybrid_alibi_scale 0 has no index to extend",
        ),
    ],
)
def test_a_model_without_indices_is_refused(extension_class, fields, message):
    with pytest.raises(ValueError, match=message):
        extension_class(as_given, config(**fields), 8.0)


def test_a_stock_model_is_refused():
    with pytest.raises(ValueError, match="a model of type llama takes no segment_ids.*bipe_llama"):
        StretchedIndices(as_given, LlamaConfig(), 8.0)


@every_extension
@pytest.mark.parametrize("extension", [1.0, 0.5, -2.0, math.inf, math.nan])
def test_an_extension_that_extends_nothing_is_refused(extension_class, extension):
    with pytest.raises(ValueError, match=f"extension: {extension} given, a number above 1 is needed"):
        extension_class(as_given, config(), extension)


def test_one_chunk_is_refused():
    with pytest.raises(ValueError, match="chunks must be at least 2, .* got 1"):
        SkippedIndices(as_given, config(), 8.0, chunks=1)


def test_a_batch_without_tokens_is_refused():
    with pytest.raises(ValueError, match="batches with input_ids, got inputs_embeds"):
        StretchedIndices(as_given, config(), 8.0)({"inputs_embeds": torch.zeros(1, 2, 4)})


# Pretraining


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), files=8)


@pytest.fixture
def base(corpus, tmp_path):
    """6 steps, 3 in each pass over the data."""
    return {
        "data": str(corpus),
        "validation_fraction": 0.2,
        "vocab_size": 300,
        "train_length": 32,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_segment_length": 32,
        "max_steps": 6,
        "per_device_train_batch_size": 12,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "output_dir": str(tmp_path / "run"),
    }


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def blocks_of(settings, split):
    tokenizer = AutoTokenizer.from_pretrained(settings["output_dir"])
    documents = load_documents(settings["data"], validation_fraction=settings["validation_fraction"])[split]
    boundaries = settings.get("document_boundaries", "ignore")
    return make_blocks(
        tokenize_documents(documents, tokenizer), settings["train_length"], document_boundaries=boundaries
    )


@pytest.fixture
def forwards(monkeypatch):
    """What every forward of a Llama was given, and whether it trained."""
    seen = []
    forward = BipeLlamaForCausalLM.forward

    @functools.wraps(forward)  # Trainer reads the names of its arguments
    def recording(self, *args, **kwargs):
        seen.append((self.training, kwargs))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(BipeLlamaForCausalLM, "forward", recording)
    return seen


@pytest.mark.parametrize("key", EXTENSIONS)
def test_training_batches_are_extended_and_evaluated_ones_are_not(base, key, forwards):
    result = pretrain(base | {key: 8.0, "seed": 7, "eval_strategy": "steps", "eval_steps": 2})
    model = AutoModelForCausalLM.from_pretrained(base["output_dir"])
    steps_per_pass = math.ceil(len(blocks_of(base, "train")) / 12)
    assert steps_per_pass == 3
    collator = EXTENSIONS[key](as_given, model.config, 8.0, seed=7)
    training = [kwargs for is_training, kwargs in forwards if is_training]
    assert len(training) == 6
    for step, kwargs in enumerate(training):
        collator.passes.fill_(step // steps_per_pass)
        expected = collator({"input_ids": kwargs["input_ids"]})["segment_ids"]
        assert torch.equal(kwargs["segment_ids"], expected)
        own = segment_batch({"input_ids": kwargs["input_ids"]}, model.config).segment_ids
        assert own.max() < kwargs["segment_ids"].max() < 8 * (own.max() + 1)
    evaluated = [kwargs for is_training, kwargs in forwards if not is_training]
    assert evaluated
    assert all("segment_ids" not in kwargs for kwargs in evaluated)
    ids = torch.tensor(blocks_of(base, "validation")["input_ids"])
    with torch.no_grad():
        assert result["eval_loss"] == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), abs=1e-5)


@pytest.mark.parametrize(("key", "step"), [("index_stretch", 3), ("index_stretch", 4), ("index_skip", 6)])
def test_a_resumed_run_equals_the_uninterrupted_one_whatever_the_workers(base, key, step):
    """Resumed in the first pass, at its end and in the second one."""
    whole = base | {"output_dir": base["output_dir"] + "-whole", key: 8.0}
    pretrain(whole)
    interrupt(pretrain, base | {key: 8.0}, step)
    workers = {"dataloader_num_workers": 1} if step == 4 else {}
    assert pretrain(base | {key: 8.0} | workers)["resumed_from"] == f"checkpoint-{step - 1}"
    ours, theirs = weights(base["output_dir"]), weights(whole["output_dir"])
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_documents_that_are_kept_apart_are_extended_alone(base, forwards):
    settings = base | {"document_boundaries": "keep", "index_skip": 8.0, "segmentation": "tokens", "max_steps": 2}
    pretrain(settings | {"intra_encoding": "none", "max_segment_length": None})
    packed = 0
    for is_training, kwargs in forwards:
        if is_training:
            starts = kwargs["position_ids"] == 0
            assert (kwargs["segment_ids"][starts] == 0).all()
            assert (kwargs["segment_ids"] >= kwargs["position_ids"]).all()  # without an extension they are equal
            assert (kwargs["segment_ids"] > kwargs["position_ids"]).any()
            packed += starts.sum().item() - len(starts)
    assert packed > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index_stretch": 1.0}, "index_stretch: 1.0 given, a number above 1"),
        ({"index_skip": 0.0}, "index_skip: 0.0 given, a number above 1"),
        ({"index_stretch": 2.0, "index_skip": 2.0}, "index_stretch and index_skip: give one of them"),
        ({"index_stretch": 2.0, "inter_encoding": "none"}, "index_stretch: a model with inter_encoding none"),
        ({"index_skip": 2.0, "segmentation": "document"}, "index_skip: with segmentation document"),
        ({"index_skip": 2.0, "separators": []}, "index_skip: without separator_token_ids"),
        (
            {"index_stretch": 2.0, "model_type": "llama", "max_segment_length": None},
            "index_stretch: a model of type llama takes no segment_ids",
        ),
        ({"alibi_slope_scale": "mean"}, "alibi_slope_scale: 'mean' is neither a number nor measured"),
        (
            {"alibi_slope_scale": "measured"},
            "measured is for inter_encoding alibi with .* not for rope with separators",
        ),
        (
            {"alibi_slope_scale": "measured", "inter_encoding": "alibi", "segmentation": "tokens"},
            "measured is for inter_encoding alibi with .* not for alibi with tokens",
        ),
        (
            {"alibi_slope_scale": "measured", "model_type": "llama", "max_segment_length": None},
            "alibi_slope_scale: a model of type llama has no such field",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_settings_are_refused_before_anything_is_written(base, changes, message):
    with pytest.raises(ValueError, match=message):
        pretrain(base | changes)
    assert not Path(base["output_dir"]).exists()


# The measured ALiBi scale


def test_mean_segment_length_counted_by_hand():
    """4 segments in the first block, the last one cut; 3 in the second, where a document starts inside a segment."""
    blocks = [
        {"input_ids": [5, 3, 5, 5, 3, 3, 5, 5], "position_ids": list(range(8))},
        {"input_ids": [5, 5, 5, 3, 5, 5, 5, 5], "position_ids": [0, 1, 0, 1, 2, 3, 4, 5]},
    ]
    assert mean_segment_length(Dataset.from_list(blocks), config()) == 16 / 7
    assert mean_segment_length(Dataset.from_list(blocks).to_iterable_dataset(), config()) == 16 / 7
    assert mean_segment_length(Dataset.from_list(blocks), config(), most=1) == 8 / 4


def test_the_sample_is_spread_over_all_blocks():
    blocks = Dataset.from_dict({"input_ids": [[5, 3]] * 50 + [[3, 3]] * 50})
    assert mean_segment_length(blocks, config(), most=10) == 20 / 15
    assert mean_segment_length(blocks.to_iterable_dataset(), config(), most=10) == 2.0  # the start of a stream


@pytest.mark.parametrize("boundaries", ["ignore", "keep"])
def test_measured_scale_is_that_of_the_training_blocks(base, boundaries, capsys):
    settings = base | {"inter_encoding": "alibi", "alibi_slope_scale": "measured", "document_boundaries": boundaries}
    interrupt(pretrain, settings, 3)
    output = capsys.readouterr().out
    result = pretrain(settings)
    assert result["resumed_from"] == "checkpoint-2"
    model = AutoModelForCausalLM.from_pretrained(base["output_dir"])
    tokens = segments = 0
    for block in blocks_of(settings, "train"):
        ids = block["input_ids"]
        starts = {0} | {i + 1 for i, token in enumerate(ids[:-1]) if token in model.config.separator_token_ids}
        starts |= {i for i, position in enumerate(block.get("position_ids", [])) if position == 0}
        tokens, segments = tokens + len(ids), segments + len(starts)
    assert model.config.alibi_slope_scale == tokens / segments
    assert f"alibi_slope_scale {tokens / segments:.2f}: the mean length of a segment of the training blocks" in output
    record = json.loads(Path(base["output_dir"], "training.json").read_text())
    assert record["alibi_slope_scale"] == tokens / segments
    assert record["config"]["alibi_slope_scale"] == "measured"


# Scaled angles at inference

THETA, FACTOR, SEEN = 100.0, 4.0, 6  # so many segments were seen in training

# Beside the rotary dimensions of a head: with two there would be one pair, which NTK scaling cannot change.
SHAPES = {"llama": ({}, 8), "gpt_neox": ({"rotary_pct": 0.5}, 4)}


def linear_angles(segment_ids, dim):
    """Position interpolation (Chen et al. 2023, arXiv 2306.15595, equation 4)."""
    return segment_ids / FACTOR * base_frequencies(dim), 1.0


def dynamic_angles(segment_ids, dim):
    """Dynamic NTK scaling (emozilla, 2023) over n segments: `theta (s n / L - (s - 1)) ** (d / (d - 2))` in place of
    theta, which is theta itself up to n = L."""
    seen = max(int(segment_ids.max()) + 1, SEEN)
    base = THETA * (FACTOR * seen / SEEN - (FACTOR - 1)) ** (dim / (dim - 2))
    return segment_ids * base_frequencies(dim, base), 1.0


def yarn_angles(segment_ids, dim):
    """YaRN (arXiv 2309.00071, section 3): pairs that turned often in L segments stay, those that turned less than once
    are interpolated, with a ramp between, here as in the authors' code linear in the number of the pair; angles are
    those, logits grow by `(0.1 ln s + 1) ** 2`."""
    fast, slow = (dim * math.log(SEEN / (turns * 2 * math.pi)) / (2 * math.log(THETA)) for turns in BETAS)
    low, high = max(math.floor(fast), 0), min(math.ceil(slow), dim - 1)
    ramp = ((torch.arange(dim // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    frequencies = base_frequencies(dim) * (ramp / FACTOR + 1 - ramp)
    return segment_ids * frequencies, 0.1 * math.log(FACTOR) + 1


def base_frequencies(dim, base=THETA):
    return base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)


BETAS = (1.0, 0.05)
SCALINGS = {
    "linear": ({}, {}, linear_angles),
    "dynamic": ({}, {"max_position_embeddings": SEEN}, dynamic_angles),
    "yarn": (
        {"original_max_position_embeddings": SEEN, "beta_fast": BETAS[0], "beta_slow": BETAS[1]},
        {"max_position_embeddings": int(FACTOR) * SEEN},
        yarn_angles,
    ),
}


def scaled_fields(family, kind):
    parameters, fields, _ = SCALINGS[kind]
    rope = {"rope_type": kind, "rope_theta": THETA, "factor": FACTOR, **parameters}
    return {**SHAPES[family][0], **fields, "rope_parameters": rope}


def ids_with(segments, seed=0):
    """A row in which so many segments of random lengths end."""
    draw = random.Random(seed)
    ids = []
    for _ in range(segments):
        ids += [*draw.choices(range(20, 60), k=draw.randint(0, 3)), draw.choice([3, 7, 11, 19])]
    return torch.tensor([ids])


def rotary_terms(model, **inputs):
    """cos and sin that a forward hands to its layers."""
    seen = []
    with model.base_model.inter_encoding.register_forward_hook(lambda module, args, terms: seen.append(terms.rotary)):
        model(**inputs)
    return seen[-1]


def assert_rotary(model, kind, dim, **inputs):
    _, _, angles_of = SCALINGS[kind]
    segment_ids = segment_batch(inputs, model.config).segment_ids
    angles, factor = angles_of(segment_ids.double()[..., None], dim)
    is_token = segment_ids >= 0
    for ours, function in zip(rotary_terms(model, **inputs), (torch.cos, torch.sin), strict=True):
        expected = factor * function(torch.cat([angles, angles], dim=-1))
        assert ours.shape[-1] == dim
        torch.testing.assert_close(ours[is_token].double(), expected[is_token], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("segments", [SEEN - 2, SEEN, 4 * SEEN])
def test_scaled_angles_are_those_of_the_formula_over_segments(family, kind, segments):
    """Lengths count segments: the texts have more than `SEEN` tokens each."""
    model = own_model(family, kind)
    ids = ids_with(segments)
    assert ids.shape[1] > segments
    assert_rotary(model, kind, SHAPES[family][1], input_ids=ids)


@pytest.mark.parametrize("kind", SCALINGS)
def test_scaling_is_given_to_from_pretrained(family, kind, tiny_model, tmp_path):
    """With what the checkpoint says besides: the mapping takes the place of the whole one, and that of a GPT-NeoX says
    how much of a head turns."""
    plain = tiny_model(family, **SHAPES[family][0])
    plain.save_pretrained(tmp_path)
    parameters, fields, _ = SCALINGS[kind]
    rope = {**plain.config.rope_parameters, "rope_type": kind, "rope_theta": THETA, "factor": FACTOR, **parameters}
    model = AutoModelForCausalLM.from_pretrained(tmp_path, rope_parameters=rope, **fields).eval()
    assert_rotary(model, kind, SHAPES[family][1], input_ids=ids_with(4 * SEEN))
    assert plain.config.rope_parameters["rope_type"] == "default"
    assert torch.equal(model.get_input_embeddings().weight, plain.get_input_embeddings().weight)


def test_continued_pretraining_with_yarn_keeps_the_rest_of_the_rotary_encoding(base):
    """The share of a head that turns, and theta."""
    first = {"model_type": "bipe_gpt_neox", "max_steps": 1, "hidden_size": 32}
    rope = {"rope_type": "default", "rope_theta": THETA, "partial_rotary_factor": 0.5}
    pretrain(base | first | {"rope_parameters": rope, "output_dir": base["output_dir"] + "-first"})
    kept = (
        "data",
        "train_length",
        "per_device_train_batch_size",
        "use_cpu",
        "disable_tqdm",
        "report_to",
        "output_dir",
    )
    parameters, fields, _ = SCALINGS["yarn"]
    yarn = {"rope_type": "yarn", "factor": FACTOR, **parameters}
    settings = {key: base[key] for key in kept} | {"initial_model": base["output_dir"] + "-first", "max_steps": 1}
    pretrain(settings | fields | {"rope_parameters": json.dumps(yarn)})
    model = AutoModelForCausalLM.from_pretrained(base["output_dir"])
    ids = torch.tensor(blocks_of({**base, **settings}, "validation")["input_ids"])
    assert_rotary(model, "yarn", 8, input_ids=ids)


def decoded(model, ids, prompt):
    """Logits of a prompt and of single tokens behind it, from a cache."""
    cache = DynamicCache(config=model.config)
    parts = [ids[:, :prompt], *ids[:, prompt:].split(1, dim=1)]
    return torch.cat([model(part, **{CACHE_NAME: cache}).logits for part in parts], dim=1)


def own_model(family, kind):
    """Not shared with other tests: the dynamic one remembers the longest text."""
    torch.manual_seed(0)
    fields = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    fields |= {"num_attention_heads": 4, "initializer_range": 0.3, "separator_token_ids": [3, 7, 11, 19]}
    return FAMILIES[family].make_causal_lm(**{**fields, "max_segment_length": 6, **scaled_fields(family, kind)}).eval()


@pytest.mark.parametrize(
    ("kind", "segments"),
    [("linear", 4 * SEEN), ("yarn", 4 * SEEN), ("dynamic", SEEN)],
    ids=["linear", "yarn", "dynamic"],
)
def test_cached_equals_uncached_with_scaled_angles(family, kind, segments):
    """Dynamic ones as long as there are no more segments than `max_position_embeddings` says."""
    ids = ids_with(segments)
    model = own_model(family, kind)
    torch.testing.assert_close(decoded(model, ids, 5), model(ids).logits, rtol=0, atol=1e-4)


def test_dynamic_keys_in_a_cache_keep_the_angles_that_they_were_made_with(family):
    """So cached decoding differs from uncached from the first segment on that is one too many, as in stock models."""
    model = own_model(family, "dynamic")
    ids = ids_with(2 * SEEN)
    beyond = int((segment_batch({"input_ids": ids}, model.config).segment_ids >= SEEN).int().argmax())
    cached = decoded(model, ids, 5)
    uncached = torch.cat(
        [own_model(family, "dynamic")(ids[:, :end]).logits[:, -1:] for end in range(1, ids.shape[1] + 1)], 1
    )
    torch.testing.assert_close(cached[:, :beyond], uncached[:, :beyond], rtol=0, atol=1e-4)
    assert ((cached - uncached)[:, beyond:].abs().amax(dim=(0, 2)) > 1e-3).all()


def test_dynamic_angles_follow_the_row_with_the_most_segments(family):
    """And, until a text with fewer than `max_position_embeddings` segments comes, that of the batches before."""
    short, long = ids_with(2 * SEEN, seed=1), ids_with(4 * SEEN)
    filling = torch.zeros(1, long.shape[1] - short.shape[1], dtype=torch.long)
    batch = {
        "input_ids": torch.cat([torch.cat([short, filling], dim=1), long]),
        "attention_mask": torch.cat([torch.cat([torch.ones_like(short), filling], dim=1), torch.ones_like(long)]),
    }
    dim = SHAPES[family][1]
    model = own_model(family, "dynamic")
    alone = [values[:, : short.shape[1]] for values in rotary_terms(model, input_ids=short)]
    assert_rotary(model, "dynamic", dim, **batch)  # the reference takes the most segments of the whole batch
    after = [values[:, : short.shape[1]] for values in rotary_terms(model, input_ids=short)]
    together = [values[:1, : short.shape[1]] for values in rotary_terms(model, **batch)]
    assert all(torch.equal(*each) for each in zip(after, together, strict=True))
    assert not torch.allclose(after[0], alone[0], atol=1e-3)
    assert_rotary(model, "dynamic", dim, input_ids=ids_with(SEEN - 1))
    assert_rotary(model, "dynamic", dim, input_ids=short)
