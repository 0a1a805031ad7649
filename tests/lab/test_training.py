"""Pretraining: what is learnt, what is written, how interrupted runs resume. `bipe_hf.lab.training`."""

import itertools
import json
import math
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from huggingface_hub import ModelCard
from interruption import interrupt
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)
from transformers.training_args import OptimizerNames
from words import write_corpus

from bipe_hf import BipeLlamaForCausalLM, BipeTokenizer
from bipe_hf.lab.common.digests import rows_digest
from bipe_hf.lab.common.run_folder import find_checkpoint, finish_run
from bipe_hf.lab.common.session import RunTrainer, perplexity
from bipe_hf.lab.data import load_documents, make_blocks, tokenize_documents
from bipe_hf.lab.reports import open_segmentation
from bipe_hf.lab.training import collate_blocks, pretrain, run
from bipe_hf.model.errors_bipe import InputError


BASELINE = {"segmentation": "tokens", "intra_encoding": "none"}


pytestmark = pytest.mark.usefixtures("own_datasets_cache", "no_progress_bars")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), files=8)


@pytest.fixture(scope="module")
def base(corpus):
    """A model of some 10,000 parameters and 8 steps, which go beyond the first pass over the data."""
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
        "max_steps": 8,
        "per_device_train_batch_size": 6,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 2,
        "use_cpu": True,
        "disable_tqdm": True,
    }


@pytest.fixture
def settings(base, tmp_path):
    return base | {"output_dir": str(tmp_path / "run")}


@pytest.fixture(scope="module")
def finished_run(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    pretrain(base | {"output_dir": str(folder)})
    return folder


@pytest.fixture(scope="module")
def interrupted_run(base, tmp_path_factory) -> Path:
    """The same training, interrupted in step 7: checkpoints of steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    interrupt(pretrain, base | {"output_dir": str(folder)}, step=7)
    return folder


@pytest.fixture
def finished(finished_run, settings) -> Path:
    """A copy of the finished run in the output folder of `settings`."""
    return Path(shutil.copytree(finished_run, settings["output_dir"]))


@pytest.fixture
def interrupted(interrupted_run, settings) -> Path:
    return Path(shutil.copytree(interrupted_run, settings["output_dir"]))


def weights(folder) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def assert_same_run(folder, other):
    """The same weights and the same loss curve, bit for bit."""
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    histories = [json.loads(Path(path, "trainer_state.json").read_text())["log_history"] for path in (folder, other)]
    timed = ("runtime", "per_second", "train_loss")  # of the last session only
    curves = [
        [{k: v for k, v in entry.items() if not k.endswith(timed)} for entry in history] for history in histories
    ]
    assert curves[0] == curves[1]
    assert sum("loss" in entry for entry in curves[0]) == 8


# A whole run


def test_output_folder_loads_with_the_auto_classes(finished_run):
    tokenizer = AutoTokenizer.from_pretrained(finished_run)
    model = AutoModelForCausalLM.from_pretrained(finished_run)
    assert isinstance(model, BipeLlamaForCausalLM)
    assert isinstance(tokenizer, BipeTokenizer)
    config = model.config
    assert config.separator_token_ids == tokenizer.separator_token_ids
    separators = [tokenizer.decode(token_id) for token_id in tokenizer.separator_token_ids]
    assert set(separators) - {tokenizer.eos_token} <= set(".!?\n\r\v\f")
    assert (config.vocab_size, config.eos_token_id, config.pad_token_id) == (
        len(tokenizer),
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    assert config.max_position_embeddings == 32
    assert config.use_cache
    assert "segment_ids" in tokenizer("a cat. it ran.")


def test_the_card_of_the_folder_tells_of_the_run(finished_run):
    result = json.loads((finished_run / "training.json").read_text())
    card = ModelCard.load(finished_run / "README.md")
    assert f"- train length: {result['train_length']} tokens" in card.text
    assert f"{result['tokens_seen']:,} tokens" in card.text
    (perplexity,) = card.data.eval_results
    assert perplexity.metric_value == math.exp(result["eval_loss"])


def test_baseline_keeps_a_plain_tokenizer(settings):
    """With a BipeTokenizer its segment ids would override `segmentation="tokens"`."""
    pretrain(settings | BASELINE)
    tokenizer = AutoTokenizer.from_pretrained(settings["output_dir"])
    assert not isinstance(tokenizer, BipeTokenizer)
    assert "segment_ids" not in tokenizer("a cat. it ran.")
    assert AutoModelForCausalLM.from_pretrained(settings["output_dir"]).config.segmentation == "tokens"


def test_baseline_unwraps_the_tokenizer_of_a_bipe_model(settings, finished_run):
    pretrain(settings | BASELINE | {"tokenizer": str(finished_run), "max_steps": 1})
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (settings["output_dir"], finished_run))
    assert not isinstance(ours, BipeTokenizer)
    text = "The cat sat. Then it ran!\n<|endoftext|> Ça."
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours.special_tokens_map == theirs.special_tokens_map


def test_baseline_keeps_the_settings_of_a_bipe_tokenizer(settings, finished_run, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(finished_run, padding_side="left", model_max_length=77)
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    pretrain(settings | BASELINE | {"tokenizer": str(tmp_path / "tokenizer"), "max_steps": 1})
    kept = AutoTokenizer.from_pretrained(settings["output_dir"])
    assert (kept.padding_side, kept.model_max_length, kept.chat_template) == ("left", 77, tokenizer.chat_template)


def test_an_empty_list_of_separators_is_taken_as_given(settings):
    pretrain(settings | {"separators": [], "max_steps": 1})
    assert AutoModelForCausalLM.from_pretrained(settings["output_dir"]).config.separator_token_ids == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": "nowhere/at_all"}, "tokenizer: nowhere/at_all cannot be loaded"),
        ({"separators": "word"}, "separators: .*'word'"),
    ],
)
def test_errors_of_the_tokenizer_name_the_key(settings, changes, message):
    with pytest.raises(ValueError, match=message):
        pretrain(settings | changes)
    assert not Path(settings["output_dir"]).exists()


def test_any_model_type_of_transformers_can_be_trained(settings):
    del settings["max_segment_length"]
    pretrain(settings | {"model_type": "llama"})
    assert type(AutoModelForCausalLM.from_pretrained(settings["output_dir"])) is LlamaForCausalLM


def test_record_tells_what_happened(finished_run, settings):
    folder = finished_run
    result = json.loads((folder / "training.json").read_text())
    assert result["steps"] == 8
    assert result["train_length"] == 32
    assert result["data"] == settings["data"]
    assert (settings | {"output_dir": str(folder)}).items() <= result["config"].items()
    assert result["parameters"] == sum(tensor.numel() for tensor in weights(folder).values())

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    documents = load_documents(settings["data"], validation_fraction=0.2)
    blocks = {split: make_blocks(tokenize_documents(documents[split], tokenizer), 32) for split in documents}
    steps_per_pass = math.ceil(len(blocks["train"]) / 12)
    passes, rest = divmod(8, steps_per_pass)
    assert passes >= 1  # so the last, smaller batch of a pass is counted too
    assert result["tokens_seen"] == 32 * (passes * len(blocks["train"]) + rest * 12)
    with torch.no_grad():
        losses = [
            model(input_ids=ids, labels=ids).loss for ids in torch.tensor(blocks["validation"]["input_ids"])[:, None]
        ]
    assert result["eval_loss"] == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)
    assert result["eval_loss"] < math.log(model.config.vocab_size) - 0.5  # it has learnt something


def test_validation_can_be_limited_to_some_blocks(settings):
    result = pretrain(settings | {"max_validation_blocks": 3})
    model = AutoModelForCausalLM.from_pretrained(settings["output_dir"])
    tokenizer = AutoTokenizer.from_pretrained(settings["output_dir"])
    documents = load_documents(settings["data"], validation_fraction=0.2)["validation"]
    ids = torch.tensor(make_blocks(tokenize_documents(documents, tokenizer), 32)["input_ids"][:3])
    with torch.no_grad():
        assert result["eval_loss"] == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), abs=1e-5)


def test_streamed_training_sees_the_blocks_in_their_order(finished_run, settings, monkeypatch):
    tokenizer = str(finished_run)
    batches = []

    def recording(blocks):
        batches.append(blocks)
        return collate_blocks(blocks)

    monkeypatch.setattr(run, "collate_blocks", recording)
    stream = {"streaming": True, "tokenizer": tokenizer, "max_steps": 2, "gradient_accumulation_steps": 1}
    pretrain(settings | stream)
    documents = load_documents(settings["data"], validation_fraction=0.2)["train"]
    blocks = make_blocks(tokenize_documents(documents, AutoTokenizer.from_pretrained(tokenizer)), 32)["input_ids"]
    assert [block["input_ids"] for batch in batches[:2] for block in batch] == blocks[:12]


def mean_loss_of_documents(model, blocks) -> float:
    """Mean over the tokens of all documents in the blocks, each fed to the model on its own."""
    losses = []
    for block in blocks:
        starts = [index for index, position in enumerate(block["position_ids"]) if position == 0]
        for start, end in itertools.pairwise([*starts, len(block["input_ids"])]):
            document = torch.tensor(block["input_ids"][start:end])
            logits = model(input_ids=document[None]).logits[0, :-1]
            losses += torch.nn.functional.cross_entropy(logits, document[1:], reduction="none").tolist()
    return sum(losses) / len(losses)


def test_batch_of_packed_documents_has_the_loss_of_each_document_alone():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, initializer_range=0.5, use_cache=False, **sizes))
    blocks = [
        {"input_ids": ids, "position_ids": [place for length in lengths for place in range(length)]}
        for ids, lengths in zip(torch.randint(0, 50, (3, 16)).tolist(), [[7, 9], [16], [3, 5, 8]], strict=True)
    ]
    loss = model(**collate_blocks(blocks)).loss.item()
    assert loss == pytest.approx(mean_loss_of_documents(model, blocks), abs=1e-5)


@pytest.mark.parametrize(
    "encoding",
    [{}, {"inter_encoding": "alibi"}, BASELINE, {"model_type": "llama", "max_segment_length": None}],
    ids=["bipe_rope", "bipe_alibi", "rope", "llama"],
)
def test_run_with_kept_boundaries_measures_each_document_alone(settings, encoding):
    keep = {"document_boundaries": "keep", "validation_fraction": 0.5, "per_device_eval_batch_size": 1000}
    result = pretrain(settings | encoding | keep)
    model = AutoModelForCausalLM.from_pretrained(settings["output_dir"])
    tokenizer = AutoTokenizer.from_pretrained(settings["output_dir"])
    documents = load_documents(settings["data"], validation_fraction=0.5)["validation"]
    blocks = make_blocks(tokenize_documents(documents, tokenizer), 32, document_boundaries="keep")
    assert sum(positions.count(0) for positions in blocks["position_ids"]) > len(blocks)
    assert result["eval_loss"] == pytest.approx(mean_loss_of_documents(model, blocks), abs=1e-5)


def test_documents_that_run_into_each_other_score_every_token():
    batch = collate_blocks([{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5, 6]}])
    assert batch.keys() == {"input_ids", "labels"}  # without a mask the causal kernels run
    assert batch["labels"].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_initial_model_gives_weights_tokenizer_and_separators(settings):
    pretrain(settings | {"separators": ["lines", "a"], "max_steps": 1})
    first, second = settings["output_dir"], settings["output_dir"] + "-second"
    decided = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    rest = {key: value for key, value in settings.items() if key not in decided | {"max_segment_length"}}
    rope = '{"rope_type": "default", "rope_theta": 500.0}'
    unchanged = {"initial_model": first, "learning_rate": 0.0, "max_steps": 1, "output_dir": second}
    pretrain(rest | unchanged | {"rope_parameters": rope})
    before, after = weights(first), weights(second)
    assert all(torch.equal(before[name], after[name]) for name in before)
    config = AutoModelForCausalLM.from_pretrained(second).config
    assert config.rope_parameters["rope_theta"] == 500.0
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (first, second)]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()
    assert tokenizers[0].separator_token_ids == tokenizers[1].separator_token_ids == config.separator_token_ids
    texts = {tokenizers[0].decode(token_id).strip() for token_id in config.separator_token_ids}
    assert texts == {"", "a", "<|endoftext|>"}
    assert tokenizers[0].separators == tokenizers[1].separators == ["lines", "a"]  # by name, whoever shows them
    assert "(`['lines', 'a']`)" in Path(second, "README.md").read_text(encoding="utf-8")
    assert open_segmentation(second).description == "separators ['lines', 'a']"


def test_measuring_in_16_bits_leaves_the_saved_weights_alone(settings):
    pretrain(settings | {"max_steps": 1, "bf16_full_eval": True})
    tensors = load_file(Path(settings["output_dir"], "model.safetensors"))
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


@pytest.mark.parametrize(("loss", "expected"), [(0.0, 1.0), (2.0, math.exp(2)), (800.0, math.inf)])
def test_perplexity_of_a_run_that_diverged_is_infinite(loss, expected):
    assert perplexity(loss) == expected


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    finish_run(tmp_path, {"losses": [math.nan, 1.5], "config": {"clip": math.inf}, "steps": 3, "name": None})
    text = (tmp_path / "training.json").read_text()
    assert "NaN" not in text
    assert json.loads(text) == {"losses": [None, 1.5], "config": {"clip": None}, "steps": 3, "name": None}


def test_best_checkpoint_of_a_gpt_neox_is_saved_with_its_head(settings):
    """The head has another name in files; Trainer alone would save the last one with the rest of the best."""
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    # The first one, whose loss is the highest.
    best |= {"metric_for_best_model": "eval_loss", "greater_is_better": True, "learning_rate": 1e-2, "max_steps": 4}
    pretrain(settings | best | {"model_type": "bipe_gpt_neox"})
    folder = Path(settings["output_dir"])
    chosen = json.loads((folder / "trainer_state.json").read_text())["best_model_checkpoint"]
    assert Path(chosen).name == "checkpoint-1"
    ours, theirs = weights(folder), weights(chosen)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# Interrupted runs


def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(settings, interrupted, finished_run, capsys):
    result = pretrain(settings)
    assert f"resuming {interrupted} from checkpoint-6" in capsys.readouterr().out
    assert result["resumed_from"] == "checkpoint-6"
    assert_same_run(interrupted, finished_run)


def test_resumed_baseline_equals_the_uninterrupted_one_bit_for_bit(settings):
    settings |= BASELINE
    whole = settings | {"output_dir": settings["output_dir"] + "-whole"}
    pretrain(whole)
    interrupt(pretrain, settings, step=3)
    assert pretrain(settings)["resumed_from"] == "checkpoint-2"
    assert_same_run(settings["output_dir"], whole["output_dir"])


def test_run_interrupted_after_its_last_step_trains_no_further_step(settings, finished, finished_run):
    for name in ("training.json", "model.safetensors"):
        (finished / name).unlink()
    result = pretrain(settings)
    assert result["steps"] == 8
    ours, theirs = weights(finished), weights(finished_run)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("trainer_state.json", Path.unlink),  # what a kill between two files leaves
        ("trainer_state.json", truncate),
        ("model.safetensors", truncate),
        ("optimizer.pt", truncate),
        ("scheduler.pt", truncate),
        ("rng_state.pth", truncate),
    ],
)
def test_incomplete_checkpoint_is_passed_over(settings, interrupted, name, damage):
    damage(interrupted / "checkpoint-6" / name)
    lines = []
    stored = yaml.safe_load((interrupted / "pretrain.yaml").read_text())
    checkpoint = find_checkpoint(interrupted, stored, overwrite=False, say=lines.append)
    assert checkpoint == interrupted / "checkpoint-4"
    assert lines[0].startswith(f"passing over {interrupted / 'checkpoint-6'}, which is incomplete: {name} is ")
    assert lines[1] == f"resuming {interrupted} from checkpoint-4"


def test_run_resumed_from_the_checkpoint_before_the_last_ends_the_same(settings, interrupted, finished_run):
    truncate(interrupted / "checkpoint-6" / "model.safetensors")
    assert pretrain(settings)["resumed_from"] == "checkpoint-4"
    assert_same_run(interrupted, finished_run)


def test_run_without_a_complete_checkpoint_starts_over(settings, interrupted, finished_run, capsys):
    shutil.rmtree(interrupted / "checkpoint-2")
    for checkpoint in interrupted.glob("checkpoint-*"):
        truncate(checkpoint / "trainer_state.json")
    result = pretrain(settings)
    assert "without a complete checkpoint: starting it over" in capsys.readouterr().out
    assert result["resumed_from"] is None
    assert_same_run(interrupted, finished_run)


def test_a_run_that_ended_before_its_first_checkpoint_starts_over_with_other_settings(settings, finished_run, capsys):
    interrupt(pretrain, settings | {"learning_rate": 2e-2}, 1)
    pretrain(settings)
    assert "ended before its first checkpoint: starting it over" in capsys.readouterr().out
    assert_same_run(settings["output_dir"], finished_run)


def test_every_validation_block_is_measured_whatever_training_drops(settings):
    few = {"per_device_eval_batch_size": 64, "save_strategy": "no"}
    result = pretrain(settings | few | {"dataloader_drop_last": True, "max_steps": 1})
    documents = load_documents(settings["data"], validation_fraction=settings["validation_fraction"])
    tokenizer = AutoTokenizer.from_pretrained(settings["output_dir"])
    blocks = make_blocks(tokenize_documents(documents["validation"], tokenizer), 32)
    assert 0 < len(blocks) < 64
    model = AutoModelForCausalLM.from_pretrained(settings["output_dir"]).eval()
    with torch.no_grad():
        losses = [model(**collate_blocks([block])).loss.item() for block in blocks]
    assert result["eval_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_training_examples_that_are_all_dropped_are_refused(settings):
    with pytest.raises(InputError, match="dataloader_drop_last: the .* fewer than one batch of 10000"):
        pretrain(settings | {"dataloader_drop_last": True, "per_device_train_batch_size": 10000})
    assert not Path(settings["output_dir"], "pretrain.yaml").exists()


@pytest.mark.parametrize("optim", [name.value for name in OptimizerNames])
def test_an_optimizer_whose_library_is_missing_is_refused_before_the_run_begins(optim, tiny_model, tmp_path):
    """Made and refused by Trainer itself: what is refused here is what a first step would have refused."""
    settings = {"optim": optim, "use_cpu": True, "report_to": "none", "optim_target_modules": "all-linear"}
    arguments = TrainingArguments(tmp_path, **settings)
    model, rows = tiny_model("llama"), Dataset.from_dict({"input_ids": [[1, 2]]})
    stock = Trainer(model, arguments, train_dataset=rows)
    try:
        stock.create_optimizer()
        is_usable = True
    except (ImportError, ValueError):
        is_usable = False
    with nullcontext() if is_usable else pytest.raises(InputError, match=f"optim: {optim} cannot be used"):
        RunTrainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows, load_model=None)


def test_changed_settings_are_not_resumed(settings, interrupted):
    before = contents(interrupted)
    with pytest.raises(ValueError, match=r"learning_rate \(there 0.01, now 0.02\), seed \(there default, now 1\)"):
        pretrain(settings | {"learning_rate": 2e-2, "seed": 1})
    assert contents(interrupted) == before


def test_the_same_data_by_another_name_is_resumed(settings, interrupted, finished_run, corpus, tmp_path):
    copy = shutil.copytree(corpus, tmp_path / "renamed")
    assert pretrain(settings | {"data": str(copy)})["resumed_from"] is not None
    assert_same_run(interrupted, finished_run)


def test_changed_data_is_not_resumed(settings, interrupted, corpus, tmp_path):
    """The path is the same, the text is not: the loss curve would be another one, and held-out text might be seen."""
    copy = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    shutil.rmtree(interrupted)
    settings["data"] = str(copy)
    interrupt(pretrain, settings, 4)
    for file in copy.iterdir():
        file.write_text(file.read_text().replace("cat", "dog"))
    before = contents(interrupted)
    with pytest.raises(ValueError, match="the text is not what the interrupted run in .* began with"):
        pretrain(settings)
    assert contents(interrupted) == before


def test_fingerprint_knows_each_split():
    whole, parts = Dataset.from_dict({"text": ["a", "b", "c"]}), []
    for border in (0, 1, 2, 3):
        parts.append(rows_digest(*(whole.select(list(part)) for part in (range(border), range(border, 3)))))
    assert len(set(parts)) == 4
    assert rows_digest(whole.select([0]), whole.select([1, 2])) == parts[1]


def test_intervals_may_change_on_resuming_and_then_hold(settings, interrupted):
    for step in (4, 6):
        shutil.rmtree(interrupted / f"checkpoint-{step}")
    pretrain(settings | {"logging_steps": 3, "save_steps": 5})
    history = json.loads((interrupted / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3, 6]
    assert {path.name for path in interrupted.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-5", "checkpoint-8"}


# Nothing is overwritten


def contents(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_finished_run_is_refused_and_left_alone(settings, finished):
    before = contents(finished)
    with pytest.raises(FileExistsError, match=r"finished run .* --overwrite"):
        pretrain(settings)
    assert contents(finished) == before


def test_overwrite_trains_again_and_deletes_only_what_the_run_wrote(settings, finished):
    (finished / "notes.txt").write_text("mine")
    (finished / "runs" / "mine").mkdir(parents=True)
    (finished / "runs" / "mine" / "model.safetensors").write_text("mine")
    result = pretrain(settings | {"max_steps": 1, "learning_rate": 5e-3}, overwrite=True)
    assert result["steps"] == 1
    assert {path.name for path in finished.glob("checkpoint-*")} == {"checkpoint-1"}
    assert (finished / "notes.txt").read_text() == "mine"
    assert (finished / "runs" / "mine" / "model.safetensors").read_text() == "mine"
    assert yaml.safe_load((finished / "pretrain.yaml").read_text())["max_steps"] == 1


@pytest.mark.parametrize(
    ("key", "place"), [("initial_model", "checkpoint-4"), ("initial_model", ""), ("tokenizer", ""), ("data", "texts")]
)
def test_overwrite_does_not_delete_what_the_run_is_to_read(settings, finished, corpus, key, place):
    shutil.copytree(corpus, finished / "texts")
    before = contents(finished)
    kept = ("data", "vocab_size", "train_length", "max_steps", "use_cpu", "output_dir")
    settings = {name: settings[name] for name in kept} | {key: str(finished / place)}
    with pytest.raises(ValueError, match=f"{key}: .* lies in output_dir .*, whose run --overwrite deletes"):
        pretrain(settings, overwrite=True)
    assert contents(finished) == before


@pytest.mark.parametrize("changes", [{"data": "missing.txt"}, {"train_length": 100_000}, {"hidden_size": 15}])
def test_overwrite_with_bad_input_leaves_the_old_run(settings, finished, changes):
    before = contents(finished)
    with pytest.raises((ValueError, FileNotFoundError)):
        pretrain(settings | changes, overwrite=True)
    assert contents(finished) == before


def test_a_file_that_the_code_of_the_model_would_replace_is_found_before_training(settings, finished):
    (finished / "cache_bipe.py").write_text("mine = 1\n")
    before = contents(finished)
    with pytest.raises(FileExistsError, match="holds a file cache_bipe.py"):
        pretrain(settings, overwrite=True)
    assert contents(finished) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_that_is_no_run_is_never_touched(settings, overwrite):
    folder = Path(settings["output_dir"])
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="not empty and holds no training run"):
        pretrain(settings, overwrite=overwrite)
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_output_dir_that_is_a_file_is_refused(settings):
    Path(settings["output_dir"]).write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"):
        pretrain(settings, overwrite=True)


# Bad settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bipe_lama"}, r"model_type: 'bipe_lama' .*did you mean bipe_llama\?"),
        ({"model_type": "llama"}, "max_segment_length: a model of type llama has no such field"),
        (
            {"inter_encoding": "rotary"},
            "inter_encoding must be one of rope, .*, kerple, t5, fire, fox, .*, dape_v2, none, got 'rotary'",
        ),
        ({"num_attention_heads": 3}, "hidden size .16. is not a multiple"),
        ({"rope_parameters": "[1]"}, "rope_parameters: .* is no mapping"),
        ({"rope_parameters": "{"}, "rope_parameters: '{' is not valid JSON"),
        (
            {"rope_parameters": '{"rope_type": "spiral"}'},
            "rope_type 'spiral' given, one of default, linear, .* is accep",
        ),
        ({"rope_parameters": '{"rope_type": "yarn"}'}, "config of the model: Missing required keys .*factor"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, r"a divisor of num_attention_heads \(4\) is accepted"),
        ({"learning_rate": -1.0}, "learning_rate: -1 given, 0 or more is accepted"),
        ({"adam_epsilon": float("nan")}, "adam_epsilon: nan given, 0 or more is accepted"),
        ({"adam_beta2": 1.5}, "adam_beta2: 1.5 given, from 0 to below 1 is accepted"),
        ({"train_length": 1}, "train_length: 1 tokens"),
        ({"train_length": 100_000}, "train split: .* fewer than one block"),
        ({"vocab_size": None}, "give vocab_size .* or tokenizer"),
        ({"vocab_size": 100}, "vocab_size must be at least"),
        ({"validation_fraction": 1.5}, "validation_fraction"),
        ({"max_validation_blocks": 0}, "max_validation_blocks: 0 given, at least 1"),
        ({"hidden_size": 0}, "hidden_size: 0 given, at least 1"),
        ({"num_hidden_layers": -1}, "num_hidden_layers: -1 given, at least 1"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size: 0 given, at least 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps: 0 given, at least 1"),
        ({"max_steps": 0}, "no training step"),
        ({"max_steps": -1, "num_train_epochs": 0}, "no training step"),
        ({"document_boundaries": "drop"}, "document_boundaries"),
        ({"separators": "paragraph"}, "paragraph"),
        ({"separators": "lines", **BASELINE}, "this model does not segment by separators"),
        ({"streaming": True}, "streaming: give a tokenizer"),
        ({"streaming": True, "tokenizer": "x", "max_steps": -1}, "streaming: give max_steps"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint cannot be set"),
        ({"hub_token": "secret"}, "hub_token cannot be set"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor cannot be set"),
        ({"hidden_sise": 16}, "hidden_sise"),
        ({"initial_model": "x"}, "hidden_size: the weights of initial_model x decide it"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_settings_are_refused_before_anything_is_written(settings, changes, message):
    with pytest.raises(ValueError, match=message):
        pretrain(settings | changes)
    assert not Path(settings["output_dir"]).exists()


def test_tokenizer_of_another_size_than_vocab_size_is_refused(settings, finished_run):
    with pytest.raises(ValueError, match=r"vocab_size: 299 given, but the tokenizer .* has 300"):
        pretrain(settings | {"tokenizer": str(finished_run), "vocab_size": 299})


def test_tokenizer_larger_than_the_initial_model_is_refused(settings, finished_run, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=20, **sizes)).save_pretrained(tmp_path / "small")
    own = {key: settings[key] for key in ("data", "train_length", "max_steps", "use_cpu", "output_dir")}
    with pytest.raises(ValueError, match=r"the tokenizer has 300 tokens, but the model .*small only 20"):
        pretrain(own | {"initial_model": str(tmp_path / "small"), "tokenizer": str(finished_run)})


def test_empty_data_is_refused(settings, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match=r"empty\.txt"):
        pretrain(settings | {"data": str(tmp_path / "empty.txt")})
