"""Evaluation against loops over single tokens, closed forms, and the models' own loss."""

import copy
import hashlib
import json
import math
import os
import random
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    CohereConfig,
    CohereForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import bipe_hf.lab.evaluation.run as run_module
from bipe_hf import BipeGPTNeoXConfig, BipeLlamaConfig, BipeLlamaForCausalLM
from bipe_hf.commands import main
from bipe_hf.lab.common.checkpoints import Checkpoint, open_checkpoints, with_fields
from bipe_hf.lab.common.trained_on import document_digests, read_trained_on
from bipe_hf.lab.data import load_documents, load_rows, tokenize_documents
from bipe_hf.lab.evaluation import (
    Evaluation,
    PositionLosses,
    block_windows,
    encoding_label,
    evaluate,
    make_windows,
    markdown_table,
    score,
    score_positions,
    scoring,
    segments_per_block,
    sliding_windows,
    tail_windows,
    text_table,
)
from bipe_hf.lab.evaluation.text import read_text
from bipe_hf.lab.finetuning import finetune
from bipe_hf.lab.tasks.passkey.task import Passkey, PasskeySettings
from bipe_hf.lab.training import pretrain
from bipe_hf.model.segmentation_bipe import segment_tokens


TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
# Weights this large make predictions that differ strongly from token to token and from context to context.
SHARP = {"initializer_range": 0.5}
TRAIN_TEXTS = {"a.txt": "Somewhere else.\n" * 30}
VALIDATION_TEXTS = {
    "a.txt": "The thin one.\nThen another. " * 40,
    "b.txt": "Ça était là, 日本。\n" * 25,
    "c.txt": "the end " * 90,
}


def byte_tokenizer(merges=()):
    """Bytes, the given merges of two characters, and an end-of-text token with the last id."""
    pieces = [*pre_tokenizers.ByteLevel.alphabet(), *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({piece: at for at, piece in enumerate(sorted(pieces))}, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


TOKENIZER = byte_tokenizer([("t", "h"), ("th", "e"), ("e", "n")])
VOCABULARY = len(TOKENIZER)


def build_llama(seed=0, vocab_size=VOCABULARY, **fields):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **TINY, **SHARP, **fields)).eval()


def build_bipe(seed=0, **fields):
    torch.manual_seed(seed)
    separators = TOKENIZER.convert_tokens_to_ids([".", "Ċ"])
    fields = {"separator_token_ids": separators, **fields}
    return BipeLlamaForCausalLM(BipeLlamaConfig(vocab_size=VOCABULARY, **TINY, **SHARP, **fields)).eval()


def save(model, folder, tokenizer=TOKENIZER):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def stream(tokenizer=TOKENIZER, texts=VALIDATION_TEXTS):
    """Token ids and UTF-8 bytes of each validation document, by the tokenizer alone."""
    documents = [texts[name] for name in sorted(texts)]
    ids = [[*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id] for text in documents]
    return ids, [len(text.encode()) for text in documents]


pytestmark = pytest.mark.usefixtures("own_datasets_cache")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for split, texts in (("train", TRAIN_TEXTS), ("validation", VALIDATION_TEXTS)):
        (folder / split).mkdir()
        for name, content in texts.items():
            (folder / split / name).write_text(content, encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save(build_llama(), tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def bipe(tmp_path_factory):
    return save(build_bipe(), tmp_path_factory.mktemp("models") / "bipe")


def loss_of_token(model, ids, begin, at):
    """-log p(token `at` | tokens from `begin` up to it), in float64, one forward per token."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids[begin:at]])).logits[0, -1].double()
    return -torch.log_softmax(logits, 0)[ids[at]].item()


def context_of(protocol, at, tokens, length, step):
    """Where the context of token `at` begins, or None where the protocol does not score it."""
    if protocol == "sliding":
        if at == 0:
            return None
        if at < length:
            return 0
        end = length
        while end <= at:
            end = min(end + step, tokens)
        return end - length
    begin = at // length * length
    first = begin + (1 if protocol == "blocks" else length - step)
    return begin if at >= first else None


@pytest.mark.parametrize("build", [build_llama, build_bipe])
@pytest.mark.parametrize(
    ("protocol", "length", "step"),
    [
        ("blocks", 12, None),
        ("blocks", 48, None),
        ("sliding", 12, 1),
        ("sliding", 12, 5),
        ("sliding", 16, 8),
        ("sliding", 24, 23),
        ("sliding", 48, 7),
        ("tail", 12, 1),
        ("tail", 16, 7),
        ("tail", 48, 47),
    ],
)
def test_each_protocol_equals_a_loop_over_single_tokens(build, protocol, length, step):
    model = build()
    ids = stream()[0][0][:48]
    contexts = {at: context_of(protocol, at, len(ids), length, step) for at in range(len(ids))}
    losses = [loss_of_token(model, ids, begin, at) for at, begin in contexts.items() if begin is not None]

    windows = {
        "blocks": lambda: block_windows(len(ids), length),
        "sliding": lambda: sliding_windows(len(ids), length, step),
        "tail": lambda: tail_windows(len(ids), length, step),
    }[protocol]()
    nll = score(model, torch.tensor(ids), windows, batch_tokens=30)

    assert windows.tokens_scored == len(losses)
    assert nll == pytest.approx(math.fsum(losses) / len(losses), rel=1e-6)


@pytest.mark.parametrize("protocol", ["blocks", "sliding", "tail"])
def test_losses_by_position_equal_a_loop_over_single_tokens(protocol):
    model = build_bipe()
    ids = stream()[0][0][:48]
    windows = {
        "blocks": lambda: block_windows(48, 12),
        "sliding": lambda: sliding_windows(48, 12, 5),
        "tail": lambda: tail_windows(48, 12, 5),
    }[protocol]()
    expected = {}
    for begin, first in zip(windows.begins.tolist(), windows.firsts.tolist(), strict=True):
        for position in range(first, 12):
            loss = loss_of_token(model, ids, begin, begin + position)
            expected.setdefault(position, []).append(loss)

    losses = score_positions(model, torch.tensor(ids), windows, batch_tokens=30)

    assert losses.counts.tolist() == [len(expected.get(position, [])) for position in range(12)]
    assert losses.sums.tolist() == pytest.approx([math.fsum(expected.get(at, [])) for at in range(12)], rel=1e-6)
    bins = {
        first: [loss for position in range(first, min(2 * first, 12)) for loss in expected.get(position, [])]
        for first in (1, 2, 4, 8)
    }
    assert [(each["first"], each["tokens"]) for each in losses.bins()] == [
        (first, len(found)) for first, found in bins.items() if found
    ]
    means = [math.fsum(found) / len(found) for found in bins.values() if found]
    assert [each["nll"] for each in losses.bins()] == pytest.approx(means, rel=1e-6)


@pytest.mark.parametrize("protocol", ["blocks", "sliding", "tail"])
def test_losses_by_unit_equal_a_loop_over_single_tokens(protocol):
    """A token is of the unit that it stands in, wherever the window is that scores it."""
    model = build_bipe()
    ids = stream()[0][0][:48]
    windows = {
        "blocks": lambda: block_windows(48, 12),
        "sliding": lambda: sliding_windows(48, 12, 5),
        "tail": lambda: tail_windows(48, 12, 5),
    }[protocol]()
    units = [0] * 7 + [1] + [2] * 17 + [3] * 23
    expected = [[] for _ in range(4)]
    for begin, first in zip(windows.begins.tolist(), windows.firsts.tolist(), strict=True):
        for at in range(begin + first, begin + 12):
            expected[units[at]].append(loss_of_token(model, ids, begin, at))

    losses = score_positions(model, torch.tensor(ids), windows, units=torch.tensor(units), batch_tokens=30)

    assert losses.units.counts.tolist() == list(map(len, expected))
    assert losses.units.sums.tolist() == pytest.approx(list(map(math.fsum, expected)), rel=1e-6)
    plain = score_positions(model, torch.tensor(ids), windows, batch_tokens=30)
    assert torch.equal(losses.sums, plain.sums)
    assert plain.units is None


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 40), st.integers(1, 30))
def test_a_unit_is_a_document_or_a_part_of_a_long_one(lengths, unit_tokens, multiple):
    documents = Dataset.from_list([{"text": "x" * (length - 1)} for length in lengths])  # and the end of the text
    if sum(lengths) < multiple:
        return
    text = read_text(documents, TOKENIZER, multiple, None)
    expected, last = [], -1
    for length in lengths:
        for at in range(length):
            last += at % unit_tokens == 0
            expected.append(last)
    assert text.units(unit_tokens).tolist() == expected[: len(text.ids)]


@given(st.integers(2, 40), st.integers(0, 100), st.data())
def test_sliding_window_scores_every_token_but_the_first_once(length, more, data):
    stride = data.draw(st.integers(1, length - 1))
    tokens = length + more
    windows = sliding_windows(tokens, length, stride)
    scored = [
        begin + at
        for begin, first in zip(windows.begins.tolist(), windows.firsts.tolist(), strict=True)
        for at in range(first, length)
    ]
    assert scored == list(range(1, tokens))
    assert windows.firsts.min() >= 1
    assert windows.begins.min() >= 0
    assert windows.begins.max() + length <= tokens


def test_protocols_use_the_constants_of_the_field():
    assert make_windows("sliding", 2048, 1024).begins.tolist() == [0, 256, 512, 768, 1024]
    assert make_windows("tail", 2048, 1024).firsts.tolist() == [768, 768]
    assert make_windows("blocks", 2048, 1024).begins.tolist() == [0, 1024]


@pytest.mark.parametrize("build", [build_llama, build_bipe])
def test_score_of_one_block_is_the_models_own_loss(build):
    model = build()
    ids = torch.tensor(stream()[0][0])[:200]
    with torch.inference_mode():
        own = model(input_ids=ids[None], labels=ids[None]).loss.item()
    assert score(model, ids, block_windows(200, 200)) == pytest.approx(own, rel=1e-6)


def test_neither_batch_size_nor_chunks_of_logits_change_the_score(monkeypatch):
    model = build_bipe()
    ids = torch.tensor(stream()[0][0])[:512]
    windows = sliding_windows(512, 64, 24)
    alone = score(model, ids, windows, batch_tokens=1)
    assert score(model, ids, windows, batch_tokens=10_000) == pytest.approx(alone, rel=1e-6)
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 7 * VOCABULARY)
    assert score(model, ids, windows, batch_tokens=10_000) == pytest.approx(alone, rel=1e-6)


DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}


@pytest.mark.parametrize(("build", "positions"), [(build_bipe, 4), (build_llama, 32)])
def test_dynamic_scaling_of_a_window_knows_no_other_window(build, positions):
    """Neither those of its batch nor those before it: each is scored as by a model that has seen nothing yet."""
    model = build(max_position_embeddings=positions, rope_parameters=DYNAMIC)
    fresh = copy.deepcopy(model)
    ids = torch.tensor(stream()[0][0])[:512]
    losses = []
    for length in (128, 64, 32):
        windows = block_windows(512, length)
        rows = [
            copy.deepcopy(fresh)(input_ids=row[None], labels=row[None]).loss.item() for row in ids.view(-1, length)
        ]
        losses.append(sum(rows) / len(rows))
        assert score(model, ids, windows, batch_tokens=10_000) == pytest.approx(losses[-1], rel=1e-6)
        assert score(model, ids, windows, batch_tokens=1) == pytest.approx(losses[-1], rel=1e-6)
    assert len({round(loss, 3) for loss in losses}) == 3


def test_logits_are_made_for_scored_tokens_only_and_few_at_a_time(monkeypatch):
    model = build_llama()
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 50 * VOCABULARY)
    sizes = []
    model.get_output_embeddings().register_forward_hook(lambda module, given, logits: sizes.append(logits.numel()))
    score(model, torch.arange(512) % 200, tail_windows(512, 256, tail=40), batch_tokens=512)
    assert sum(sizes) == 2 * 40 * VOCABULARY
    assert max(sizes) <= 50 * VOCABULARY


def test_uniform_model_has_the_perplexity_of_its_vocabulary(tmp_path, text):
    model = build_llama(vocab_size=300)
    torch.nn.init.zeros_(model.lm_head.weight)
    folder = save(model, tmp_path / "uniform")
    ids, num_bytes = stream()
    results = evaluate([folder], [64, 320], data=text, protocols=["blocks", "sliding"], stride=16).results
    assert len(results) == 4
    tokens = sum(map(len, ids)) // 320 * 320
    assert tokens > len(ids[0]) + len(ids[1])  # the text reaches into the third document: all bytes count
    for result in results:
        assert result.perplexity == pytest.approx(300, rel=1e-6)
        assert result.bits_per_byte == pytest.approx(math.log2(300) * sum(map(len, ids)) / sum(num_bytes), rel=1e-6)


def test_documents_are_concatenated_and_every_length_covers_the_same_text(text, llama, bipe):
    ids, _ = stream()
    ids = [token for document in ids for token in document]
    ids = torch.tensor(ids[: len(ids) // 384 * 384])
    results = evaluate([llama, bipe], [96, 384, 128], data=text, batch_tokens=1000).results
    assert [(result.model, result.length) for result in results] == [
        (model, length) for model in (llama, bipe) for length in (96, 384, 128)
    ]
    assert len({result.text_sha256 for result in results}) == 1
    for result in results:
        model = build_llama() if result.model == llama else build_bipe()
        blocks = ids.view(-1, result.length)
        with torch.inference_mode():
            own = [model(input_ids=block[None], labels=block[None]).loss.item() for block in blocks]
        assert result.nll == pytest.approx(sum(own) / len(own), rel=1e-5)
        assert result.perplexity == pytest.approx(math.exp(result.nll), rel=1e-12)
        assert result.blocks == len(blocks)
        assert result.tokens_scored == len(ids) - len(blocks)
        assert result.text_tokens == len(ids)


def test_max_tokens_scores_the_beginning_and_counts_the_bytes_of_the_documents_reached(text, llama):
    ids, num_bytes = stream()
    (result,) = evaluate([llama], [100], data=text, max_tokens=len(ids[0]) + 150).results
    assert result.text_tokens == (len(ids[0]) + 150) // 100 * 100
    assert result.text_documents == 2
    assert result.bytes_per_token == sum(num_bytes[:2]) / (len(ids[0]) + len(ids[1]))
    (within,) = evaluate([llama], [100], data=text, max_tokens=199).results
    assert within.text_tokens == 100
    assert within.bytes_per_token == num_bytes[0] / len(ids[0])
    (cut,) = evaluate([llama], [1100], data=text).results  # the rest, not half a block, holds the third document
    assert cut.text_documents == 2
    assert cut.bytes_per_token == result.bytes_per_token


def test_streamed_text_gives_the_same_results(text, llama):
    (read,) = evaluate([llama], [100], data=text, max_tokens=1000).results
    (streamed,) = evaluate([llama], [100], data=text, max_tokens=1000, streaming=True).results
    assert (streamed.nll, streamed.text_sha256) == (read.nll, read.text_sha256)


def test_models_with_other_tokenizers_are_scored_with_their_own_and_noted(tmp_path, text, llama):
    plain = byte_tokenizer()
    other = save(build_llama(vocab_size=len(plain)), tmp_path / "bytes", plain)
    results = evaluate([llama, other], [64], data=text).results
    ids, num_bytes = stream(plain)
    assert results[1].bytes_per_token == pytest.approx(sum(num_bytes) / sum(map(len, ids)))
    assert results[1].bits_per_byte == pytest.approx(
        results[1].nll / math.log(2) * sum(map(len, ids)) / sum(num_bytes), rel=1e-9
    )
    for table in (text_table(results), markdown_table(results)):
        assert "compare bits per byte" in table
    assert "compare bits per byte" not in text_table(results[:1])


def test_tokenizers_that_only_differ_in_their_end_of_text_token_are_told_apart(tmp_path, text):
    folders = []
    for eos, pad in (("<|end|>", "<|pad|>"), ("<|pad|>", "<|end|>")):
        tokenizer = copy.deepcopy(TOKENIZER)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>", "<|pad|>"]})
        tokenizer.eos_token, tokenizer.pad_token = eos, pad
        folders.append(save(build_llama(vocab_size=len(tokenizer)), tmp_path / eos.strip("<|>"), tokenizer))
    first, second = evaluate(folders, [64], data=text).results
    assert first.text_sha256 != second.text_sha256


@pytest.mark.parametrize("protocol", ["blocks", "sliding"])
def test_segments_per_block_are_those_of_the_model(protocol):
    random.seed(0)
    config = BipeLlamaConfig(vocab_size=20, separator_token_ids=[3, 7], **TINY)
    ids = torch.tensor(random.choices(range(10), k=120))
    windows = block_windows(120, 24) if protocol == "blocks" else sliding_windows(120, 24, 7)
    counts = []
    for begin in windows.begins.tolist():
        block = ids[None, begin : begin + 24]
        segments = segment_tokens((block == 3) | (block == 7)).segment_ids
        counts.append(len(set(segments[0].tolist())))
    assert segments_per_block(config, ids, windows) == pytest.approx(sum(counts) / len(counts))


def test_segments_per_block_without_separators():
    ids, windows = torch.arange(100) % 20, block_windows(100, 25)
    fields = {"vocab_size": 20, "separator_token_ids": [3]}
    assert segments_per_block(BipeLlamaConfig(segmentation="tokens", **fields), ids, windows) == 25
    assert segments_per_block(BipeLlamaConfig(segmentation="document", **fields), ids, windows) == 1
    assert segments_per_block(LlamaConfig(vocab_size=20), ids, windows) is None


@pytest.mark.parametrize(
    ("segmentation", "inter", "intra", "label"),
    [
        ("separators", "rope", "learned", "BiPE-RoPE"),
        ("separators", "alibi", "learned", "BiPE-ALiBi"),
        ("separators", "rope", "sinusoidal", "BiPE-RoPE (sinusoidal)"),
        ("separators", "rope", "none", "RoPE over segments"),
        ("separators", "none", "learned", "learned APE in segments"),
        ("tokens", "rope", "none", "RoPE"),
        ("tokens", "alibi", "none", "ALiBi"),
        ("tokens", "none", "none", "NoPE"),
        ("document", "none", "learned", "learned APE"),
        ("document", "none", "sinusoidal", "sinusoidal APE"),
        ("document", "none", "none", "NoPE"),
    ],
)
def test_encoding_labels_are_the_names_of_the_field(segmentation, inter, intra, label):
    config = BipeLlamaConfig(
        segmentation=segmentation, inter_encoding=inter, intra_encoding=intra, separator_token_ids=[1]
    )
    assert encoding_label(config) == label


def test_stock_models_are_labelled_by_their_type():
    assert encoding_label(LlamaConfig()) == "llama"


def write_training(folder, data, validation_fraction=0.05, train_length=64, **more):
    content = {"train_length": train_length, "data": data, "config": {"validation_fraction": validation_fraction}}
    content |= more
    content |= {"tokens_seen": 1, "parameters": 1, "eval_loss": None, "versions": {"bipe-hf": "0.1.0"}}
    (Path(folder) / "training.json").write_text(json.dumps(content))


def test_text_is_held_out_as_in_training(tmp_path):
    for at in range(30):
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / f"{at}.txt").write_text(f"Document number {at}. " * 10)
    first, second = save(build_llama(), tmp_path / "first"), save(build_llama(), tmp_path / "second")
    data = str(tmp_path / "docs")
    (plain,) = evaluate([first], [64], data=data, validation_fraction=0.5).results
    write_training(first, data, validation_fraction=0.5)
    evaluation = evaluate([first], [64], data=os.path.relpath(data))
    assert evaluation.data["validation_fraction"] == 0.5
    assert evaluation.results[0].train_length == 64
    assert evaluation.results[0].text_sha256 == plain.text_sha256
    write_training(second, data, validation_fraction=0.2)
    with pytest.raises(ValueError, match="validation_fraction"):
        evaluate([first, second], [64], data=data)
    with pytest.warns(UserWarning, match="may know this text"):
        evaluate([first, second], [64], data=data, validation_fraction=0.2)


@pytest.mark.parametrize("content", ["[1]", "{", '{"train_length": 64, "data": "docs"}'])
def test_a_training_of_another_program_is_as_good_as_none_and_said_so(tmp_path, text, content):
    model = save(build_llama(), tmp_path / "model")
    (Path(model) / "training.json").write_text(content)
    with pytest.warns(UserWarning, match="training.json is of another program"):
        (result,) = evaluate([model], [64], data=text).results
    assert result.train_length is None


def test_training_on_other_data_does_not_decide_what_is_held_out(tmp_path, text):
    first = save(build_llama(), tmp_path / "first")
    write_training(first, "elsewhere", validation_fraction=0.5, data_sha256="0" * 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluate([first], [64], data=text).data["validation_fraction"] == 0.05


@pytest.mark.parametrize("streaming", [False, True])
def test_where_there_is_no_digest_to_compare_a_warning_says_so(tmp_path, text, streaming):
    model = save(build_llama(), tmp_path / "model")
    write_training(model, "elsewhere", **({"data_sha256": "0" * 64} if streaming else {}))
    with pytest.warns(UserWarning, match="model may know this text: without digests"):
        evaluate([model], [64], data=text, streaming=streaming)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A corpus of forty documents, and a model that was pretrained on four fifths of it."""
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "corpus").mkdir()
    for at in range(40):
        (folder / "corpus" / f"{at}.txt").write_text(f"Document number {at}. " * 10)
    pretrain(
        {"data": str(folder / "corpus"), "validation_fraction": 0.2, "vocab_size": 258, "train_length": 16}
        | {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        | {"output_dir": str(folder / "model"), "max_steps": 1, "use_cpu": True, "report_to": "none"}
    )
    return folder


def as_a_link(corpus, folder):
    (folder / "link").symlink_to(corpus)
    return folder / "link"


def as_a_copy(corpus, folder):
    return shutil.copytree(corpus, folder / "copy")


def as_a_path_from_elsewhere(corpus, folder):
    return os.path.relpath(corpus, folder)


@pytest.mark.parametrize("name", [as_a_link, as_a_copy, as_a_path_from_elsewhere])
def test_the_text_of_the_training_is_known_by_any_name(pretrained, tmp_path, name):
    data = str(name(pretrained / "corpus", tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation = evaluate([pretrained / "model"], [16], data=data)
        settings = Passkey("bipe_passkey").prepare(
            PasskeySettings([64], data=data), open_checkpoints([pretrained / "model"])
        )
    assert evaluation.data["validation_fraction"] == settings["validation_fraction"] == 0.2
    trained = load_documents(str(pretrained / "corpus"), validation_fraction=0.2)
    (row,) = evaluation.results
    assert row.text_documents == len(trained["validation"])
    stream = [
        ids
        for each in tokenize_documents(trained["validation"], AutoTokenizer.from_pretrained(pretrained / "model"))
        for ids in each["input_ids"]
    ]
    assert row.text_sha256 == hashlib.sha256(np.array(stream[: row.text_tokens]).tobytes()).hexdigest()


@pytest.mark.parametrize("streaming", [False, True])
def test_documents_that_were_trained_on_are_counted_whatever_stands_beside_them(pretrained, tmp_path, streaming):
    rows = [{"text": file.read_text()} for file in sorted((pretrained / "corpus").iterdir())]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": "New. " * 20}]))
    trained = set(load_documents(str(pretrained / "corpus"), validation_fraction=0.2)["train"]["text"])
    scored = load_documents("rows.jsonl", validation_fraction=0.5)["validation"]["text"]
    count = sum(text in trained for text in scored)
    assert 0 < count < len(scored)
    with pytest.warns(UserWarning, match=f"was trained on {count} of the {len(scored)} documents of rows.jsonl"):
        evaluation = evaluate(
            [pretrained / "model"], [16], data="rows.jsonl", validation_fraction=0.5, streaming=streaming
        )
    assert evaluation.results[0].text_documents == len(scored)


def test_what_continues_from_a_model_or_is_tuned_on_texts_knows_what_that_model_knew(pretrained, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"text": "Row {at}."}}\n' for at in range(10)))
    shared = {"initial_model": str(pretrained / "model"), "data": "rows.jsonl", "max_steps": 1, "use_cpu": True}
    shared |= {"report_to": "none", "validation_fraction": 0.2}
    pretrain(shared | {"output_dir": "continued", "train_length": 4})
    finetune(shared | {"output_dir": "tuned", "task": "causal_lm"})
    first = load_documents(str(pretrained / "corpus"), validation_fraction=0.2)["train"]["text"]
    for folder, rows in (
        ("continued", load_documents("rows.jsonl", validation_fraction=0.2)["train"]["text"]),
        ("tuned", load_rows("rows.jsonl", validation_fraction=0.2)["train"]["text"]),
    ):
        known = read_trained_on(Path(folder))
        assert known.tolist() == sorted({*document_digests([*first, *rows]).tolist()})


def test_results_on_disk_are_the_results_returned(tmp_path, text, llama, bipe):
    output = tmp_path / "new folder" / "results.json"
    evaluation = evaluate(
        [llama, bipe], [320, 640], data=text, protocols=["sliding", "tail"], output=output, command="a command"
    )
    assert Evaluation.load(output) == evaluation
    content = json.loads(output.read_text())
    assert content["format"] == "bipe-hf evaluation 1"
    assert content["command"] == "a command"
    assert {"python", "torch", "transformers", "bipe-hf", "device", "dtype"} == content["environment"].keys()
    assert len(content["results"]) == 8
    assert {(row["protocol"], row["stride"]) for row in content["results"]} == {("sliding", 256), ("tail", None)}
    markdown = output.with_suffix(".md").read_text()
    assert markdown_table(evaluation.results) in markdown
    assert sorted(path.name for path in output.parent.iterdir()) == ["results.json", "results.md"]


def test_tables_show_every_model_protocol_and_length(text, llama, bipe):
    results = evaluate([llama, bipe], [300, 600], data=text, protocols=["blocks", "tail"]).results
    lines = text_table(results).splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("perplexity, protocol tail")) + 1
    heading, *rows = [line.split() for line in lines[start : start + 3]]
    assert heading == ["model", "encoding", "train", "length", "300", "600"]
    assert [row[:3] for row in rows] == [["llama", "llama", "-"], ["bipe", "BiPE-RoPE", "-"]]
    shown = [float(cell) for row in rows for cell in row[3:]]
    assert shown == pytest.approx([result.perplexity for result in results if result.protocol == "tail"], rel=1e-2)
    assert len({len(line) for line in lines[start : start + 3]}) == 1  # aligned
    assert f"| llama | llama | - | {rows[0][3]} | {rows[0][4]} |" in markdown_table(results)


def test_interrupted_run_resumes_without_repeating_a_result(tmp_path, text, llama, bipe, monkeypatch):
    def run(output, **more):
        return evaluate([llama, bipe], [64, 320], data=text, output=output, **more)

    uninterrupted = run(tmp_path / "whole.json")
    measure, calls = run_module._measure, []

    def interrupted(*arguments):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(arguments)
        return measure(*arguments)

    monkeypatch.setattr(run_module, "_measure", interrupted)
    output = tmp_path / "results.json"
    with pytest.raises(KeyboardInterrupt):
        run(output)
    assert len(Evaluation.load(output).results) == 3

    monkeypatch.setattr(run_module, "_measure", lambda *arguments: calls.append(arguments) or measure(*arguments))
    resumed = run(output, resume=True)
    assert len(calls) == 4
    assert Evaluation.load(output) == resumed
    for one, other in zip(resumed.results, uninterrupted.results, strict=True):
        assert one.measurement == other.measurement
        assert one.nll == other.nll
    assert run(output, resume=True).results == resumed.results
    assert len(calls) == 4


def test_resumed_run_measures_again_what_has_changed(tmp_path, text):
    folder, output = tmp_path / "model", tmp_path / "results.json"
    save(build_llama(seed=0), folder)
    (before,) = evaluate([folder], [64], data=text, output=output).results
    save(build_llama(seed=1), folder)
    (after,) = evaluate([folder], [64], data=text, output=output, resume=True).results
    assert before.measurement == after.measurement
    assert before.nll != after.nll
    with pytest.raises(ValueError, match="other data"):
        evaluate([folder], [64], data=text, split="train", output=output, resume=True)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4, "rope_theta": 10000.0}


def test_config_fields_are_set_for_the_measurement_and_named_in_the_results(tmp_path, text, bipe):
    output = tmp_path / "results.json"
    (plain,) = evaluate([bipe], [128], data=text, output=output).results
    fields = {"rope_parameters": YARN}
    earlier, stretched = evaluate([bipe], [128], data=text, output=output, resume=True, config_fields=fields).results
    assert earlier == plain
    assert (plain.config_fields, stretched.config_fields) == ({}, fields)
    assert stretched.name.startswith('bipe, rope_parameters={"rope_type": "yarn"')
    assert (
        stretched.model_fingerprint != plain.model_fingerprint
    )  # so `bipe-hf push` takes it for no result of the model
    model = build_bipe(rope_parameters=YARN)
    ids = torch.tensor([token for document in stream()[0] for token in document])
    assert stretched.nll == pytest.approx(score(model, ids, block_windows(stretched.text_tokens, 128)), rel=1e-6)
    assert abs(stretched.nll - plain.nll) > 1e-4
    for table in (text_table([plain, stretched]), markdown_table([plain, stretched])):
        assert "yarn" in table
    assert len(evaluate([bipe], [128], data=text, output=output, resume=True, config_fields=fields).results) == 2


def test_the_base_install_measures_prints_and_keeps_results(text, bipe, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tabulate", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["evaluate", bipe, "--lengths", "64,128", "--data", text, "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("evaluation.md is not written: tables need tabulate") == 1
    assert text_table(Evaluation.load("evaluation.json").results) in printed.out
    assert not Path("evaluation.md").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('{"rope_parametres": {}}', "has no field rope_parametres"),
        ('{"inter_encoding": "rotary"}', "inter_encoding must be one of"),
        ('{"rope_parameters": {"rope_type": "spiral"}}', "cannot be loaded ('spiral')"),
        ('{"max_segment_length": 7}', "cannot be loaded"),
        ("{", "--config-fields: '{' is not valid JSON"),
        ("[1]", "is no mapping of fields"),
    ],
)
def test_config_fields_that_the_model_does_not_have_are_refused(text, bipe, fields, message, capsys):
    assert main(["evaluate", bipe, "--lengths", "64", "--data", text, "--config-fields", fields]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("bipe-hf: error: ")
    assert message in error
    assert not Path("evaluation.json").exists()


def break_weights(folder):
    (folder / "model.safetensors").write_bytes(b"not weights")


def remove(*names):
    def apply(folder):
        for name in names:
            (folder / name).unlink()

    return apply


SEPARATOR_OUTSIDE = '{"model_type": "bipe_llama", "vocab_size": 9, "separator_token_ids": [10]}'


def write(name, content):
    return lambda folder: (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("config.json"), "no config.json"),
        (remove("tokenizer.json", "tokenizer_config.json"), "no tokenizer"),
        (remove("model.safetensors"), "no weights"),
        (write("config.json", "{"), "cannot be read"),
        (write("tokenizer.json", "{"), "cannot be read"),
        (
            write("config.json", '{"model_type": "bipe_llama", "vocab_size": 9, "separator_token_ids": [10]}'),
            "cannot be",
        ),
        (write("config.json", '{"model_type": "bipe_llama", "hidden_size": "wide"}'), "cannot be read"),
        (
            lambda folder: byte_tokenizer([("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")]).save_pretrained(folder),
            "vocabulary",
        ),
    ],
)
def test_unusable_folder_is_named_before_any_model_is_loaded(tmp_path, text, llama, damage, message, monkeypatch):
    monkeypatch.setattr(Checkpoint, "load", None)
    folder = tmp_path / "damaged"
    save(build_llama(), folder)
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        evaluate([llama, folder], [64], data=text)
    assert "damaged" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": []}, "at least one model"),
        ({"models": ["nowhere"]}, "nowhere"),
        ({"lengths": []}, "at least one length"),
        ({"lengths": [64, 64]}, "given twice"),
        ({"lengths": [0]}, "0 is too short"),
        ({"lengths": [1]}, "1 is too short"),
        ({"lengths": [64, -64]}, "-64 is too short"),
        ({"lengths": [256], "protocols": ["sliding"]}, "length 256 must be greater"),
        ({"lengths": [32], "protocols": ["blocks", "sliding"], "stride": 32}, "length 32 must be greater"),
        ({"lengths": [256], "protocols": ["tail"]}, "length 256 must be greater"),
        ({"protocols": ["block"]}, "'block' is none of blocks, sliding, tail"),
        ({"protocols": ["blocks", "blocks"]}, "given twice"),
        ({"protocols": []}, "one protocol"),
        ({"stride": 0}, "stride: 0"),
        ({"batch_tokens": 0}, "batch_tokens: 0"),
        ({"split": "test"}, "'test' is none of train, validation"),
        ({"dtype": "int8"}, "'int8' is none of auto"),
        ({"device": "nonsense"}, "nonsense"),
        ({"max_tokens": 63}, "63 tokens hold no block of 64"),
        ({"lengths": [8192]}, r"has \d+ tokens, too few for one block of 8192"),
        ({"lengths": [1000, 999]}, "too few for one block of 999000"),
        ({"data": "missing.txt"}, "missing.txt"),
        ({"output": "results.txt"}, "must end in .json"),
        ({"output": "results.json", "overwrite": True, "resume": True}, "exclude"),
        ({"output": "a file/results.json"}, "nothing can be written"),
    ],
)
def test_bad_argument_is_refused_before_any_model_is_loaded(text, llama, arguments, message, monkeypatch):
    monkeypatch.setattr(Checkpoint, "load", None)
    Path("a file").write_text("")
    arguments = {"models": [llama], "lengths": [64], "data": text} | arguments
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate(**arguments)


def test_same_folder_twice_is_refused(llama, text):
    with pytest.raises(ValueError, match="given twice"):
        evaluate([llama, Path(llama, "..", Path(llama).name)], [64], data=text)


def test_models_in_folders_of_one_name_are_told_apart(tmp_path, text):
    for run in ("one", "two"):
        save(build_llama(), tmp_path / run / "last")
    results = evaluate([tmp_path / "one" / "last", tmp_path / "two" / "last"], [64], data=text).results
    assert [result.name for result in results] == ["one/last", "two/last"]


@pytest.mark.parametrize("existing", ["results.json", "results.md"])
def test_existing_output_is_kept_without_overwrite(tmp_path, text, llama, existing):
    (tmp_path / existing).write_text("precious")
    with pytest.raises(FileExistsError, match=existing):
        evaluate([llama], [64], data=text, output=tmp_path / "results.json")
    assert (tmp_path / existing).read_text() == "precious"
    evaluate([llama], [64], data=text, output=tmp_path / "results.json", overwrite=True)
    assert "precious" not in (tmp_path / existing).read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not valid JSON"), ("[]", "was not written by"), ('{"format": "bipe-hf evaluation 1"}', "does not hold")],
)
def test_file_that_holds_no_results_is_not_resumed(tmp_path, text, llama, content, message):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        evaluate([llama], [64], data=text, output=tmp_path / "results.json", resume=True)
    assert (tmp_path / "results.json").read_text() == content


def test_corrupt_weights_are_refused(tmp_path, text):
    folder = tmp_path / "damaged"
    save(build_llama(), folder)
    break_weights(folder)
    with pytest.raises(ValueError, match="cannot be loaded"):
        evaluate([folder], [64], data=text)


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path, text):
    folder = tmp_path / "renamed"
    model = build_llama()
    weights = {("embeds" if name == "lm_head.weight" else name): value for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    TOKENIZER.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"missing keys lm_head\.weight"):
        evaluate([folder], [64], data=text)
    model.save_pretrained(folder, state_dict=model.state_dict() | {"model.embeds.0.weight": torch.zeros(4, 4)})
    with pytest.raises(ValueError, match=r"unexpected keys model\.embeds\.0\.weight.*bipe-hf convert"):
        evaluate([folder], [64], data=text)


def test_model_that_changes_its_logits_is_refused(tmp_path, text):
    torch.manual_seed(0)
    model = CohereForCausalLM(CohereConfig(vocab_size=VOCABULARY, logit_scale=0.5, **TINY))
    with pytest.raises(ValueError, match="changes the logits"):
        evaluate([save(model, tmp_path / "cohere")], [64], data=text)


def test_loss_that_is_not_a_number_is_an_error_and_not_a_result(tmp_path, text):
    model = build_llama()
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(ValueError, match="mean loss is nan"):
        evaluate([save(model, tmp_path / "broken")], [64], data=text, output=tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()


def test_dtype_is_the_one_asked_for(text, llama, monkeypatch):
    seen = []
    scored = PositionLosses(torch.ones(64), torch.ones(64))
    monkeypatch.setattr(run_module, "score_positions", lambda model, *rest, **more: seen.append(model.dtype) or scored)
    evaluate([llama], [64], data=text, dtype="bfloat16")
    evaluate([llama], [64], data=text)
    assert seen == [torch.bfloat16, torch.float32]


def test_command_writes_results_and_prints_the_tables(tmp_path, text, llama, bipe, capsys):
    status = main(["evaluate", llama, bipe, "--lengths", "64,320", "--data", text, "--protocol", "blocks"])
    printed = capsys.readouterr().out
    assert status == 0
    assert text_table(Evaluation.load("evaluation.json").results) in printed
    assert Path("evaluation.md").is_file()
    assert main(["evaluate", llama, "--lengths", "64", "--data", text]) == 2
    assert "bipe-hf: error: output: evaluation.json exists" in capsys.readouterr().err


@pytest.mark.parametrize("lengths", ["64,many", "", "64,,128", "1.5"])
def test_command_refuses_lengths_that_are_no_numbers(llama, lengths, capsys):
    assert main(["evaluate", llama, "--lengths", lengths]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("bipe-hf: error: --lengths")
    assert "\n" not in error


def test_evaluation_leaves_the_model_and_its_gradients_alone():
    model = build_llama()
    before = copy.deepcopy(model.state_dict())
    score(model, torch.arange(128), block_windows(128, 64))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rope_parameters_given_for_a_measurement_keep_the_base_and_the_share_of_the_model():
    config = BipeGPTNeoXConfig(
        separator_token_ids=[1],
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 1.0},
    )
    scaled = with_fields(config, {"rope_parameters": {"rope_type": "linear", "factor": 8.0}}).rope_parameters
    assert (scaled["rope_type"], scaled["factor"]) == ("linear", 8.0)
    assert (scaled["rope_theta"], scaled["partial_rotary_factor"]) == (500000.0, 1.0)
