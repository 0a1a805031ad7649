"""TRL's trainers on BiPE models: batches of `SFTTrainer` and `DPOTrainer`, and the numbers made of them."""

import copy
import random
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from families import pairs
from paths import ROOT
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM, BipeTokenizer
from bipe_hf.integrations.peft import lora_config
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.lab.training.schedule import EncodingSchedule


SCRIPT = ROOT / "scripts" / "finetune_lora.py"
EOS, PADDING = 0, 1
SEPARATORS = [3, 7, 11, 19]  # those of the tiny models of tiny.py
CHAT_TEMPLATE = (
    '{% for message in messages %}{% if message.role == "user" %}w40 {{ message.content }} {% else %}w41 '
    "{% generation %}{{ message.content }} </s>{% endgeneration %} {% endif %}{% endfor %}"
)

one_inter_encoding = pytest.mark.parametrize("model", pairs(["rope"]), indirect=True)
"""For what is about the data: batches are compared with both encodings in the first tests."""

PACKED = {"packing": True, "max_length": 64}
BATCHES = {
    "padded": {},
    "padding_free": {"padding_free": True, "max_length": None},
    "packed": PACKED,
}
"""Settings under which TRL keeps documents apart. All documents make one batch."""


pytestmark = pytest.mark.usefixtures("own_datasets_cache", "no_progress_bars")


@pytest.fixture(scope="module")
def tokenizer():
    """A word a token, and the vocabulary of the tiny models."""
    words = {"</s>": EOS, "<pad>": PADDING} | {f"w{number}": number for number in range(2, 60)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w2"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")
    tokenizer = BipeTokenizer.from_tokenizer(plain, separators=SEPARATORS)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def text_of(token_ids) -> str:
    return " ".join(f"w{token_id}" for token_id in token_ids)


@pytest.fixture(scope="module")
def documents() -> list[list[int]]:
    """Token ids of documents with few words, so that most have several segments; the end of text comes last."""
    draw = random.Random(0)
    return [[*draw.choices(range(2, 20), k=length), EOS] for length in (9, 22, 1, 15, 30, 4)]


@pytest.fixture(scope="module")
def texts(documents):
    """The documents without their end, which TRL adds."""
    return Dataset.from_dict({"text": [text_of(document[:-1]) for document in documents]})


@pytest.fixture
def make_trainer(model, tokenizer, tmp_path):
    """A function from a data set and settings to a trainer of a model of its own, for TRL changes what it trains."""

    def make(dataset, data_collator=None, peft_config=None, **settings):
        defaults = {"bf16": False, "use_cpu": True, "report_to": "none", "logging_steps": 1, "max_steps": 1}
        defaults |= {"per_device_train_batch_size": 8, "save_strategy": "no", "disable_tqdm": True}
        return SFTTrainer(
            copy.deepcopy(model),
            SFTConfig(str(tmp_path / "run"), **{**defaults, **settings}),
            train_dataset=dataset,
            data_collator=data_collator,
            processing_class=tokenizer,
            peft_config=peft_config,
        )

    return make


def batch_of(trainer) -> dict:
    (batch,) = trainer.get_train_dataloader()
    return dict(batch)


def documents_in(batch, logits) -> dict[tuple, torch.Tensor]:
    """Documents by where their end of text stands, which asks nothing of TRL, and the logits at their tokens."""
    found = {}
    for row, row_logits in zip(batch["input_ids"].tolist(), logits, strict=True):
        start = 0
        for index, token_id in enumerate(row):
            if token_id == EOS:
                found[tuple(row[start : index + 1])] = row_logits[start : index + 1]
                start = index + 1
        assert set(row[start:]) <= {PADDING}
    return found


@torch.no_grad()
def logits_alone(model, document) -> torch.Tensor:
    return model(input_ids=torch.tensor([document])).logits[0]


def loss_of(model, documents, scored=None) -> float:
    """Cross entropy of the documents, each alone; `scored` are the tokens whose prediction counts, or all."""
    losses = []
    for document, is_scored in zip(documents, scored or [[True] * len(each) for each in documents], strict=True):
        losses += cross_entropy(logits_alone(model, document)[:-1], torch.tensor(document[1:]), reduction="none")[
            torch.tensor(is_scored[1:], dtype=torch.bool)
        ]
    return torch.stack(losses).mean().item()


def first_loss(trainer) -> float:
    trainer.train()
    return trainer.state.log_history[0]["loss"]


@pytest.mark.parametrize("settings", BATCHES.values(), ids=BATCHES)
def test_every_document_of_a_batch_is_computed_as_if_it_were_alone(model, make_trainer, texts, documents, settings):
    trainer = make_trainer(texts, **settings)
    batch = batch_of(trainer)
    assert ("position_ids" in batch) == bool(settings)
    batch.pop("labels")
    with torch.no_grad():
        found = documents_in(batch, trainer.model.eval()(**batch).logits)
    assert found.keys() == {tuple(document) for document in documents}
    for document, logits in found.items():
        torch.testing.assert_close(logits, logits_alone(model, list(document)), atol=2e-5, rtol=1e-5)


@one_inter_encoding
def test_the_trainer_takes_the_folder_of_a_model(model, tokenizer, texts, tmp_path):
    """It looks for the class in transformers itself, then for `auto_map` in the configuration."""
    model.save_pretrained(tmp_path)
    settings = SFTConfig(str(tmp_path / "run"), bf16=False, use_cpu=True, report_to="none")
    trainer = SFTTrainer(str(tmp_path), settings, train_dataset=texts, processing_class=tokenizer)
    assert type(trainer.model) is type(model)


@pytest.mark.parametrize("settings", BATCHES.values(), ids=BATCHES)
def test_the_first_loss_is_that_of_the_documents_alone(model, make_trainer, texts, documents, settings):
    trainer = make_trainer(texts, **settings)
    assert first_loss(trainer) == pytest.approx(loss_of(model, documents), rel=1e-5)


@one_inter_encoding
def test_wrapped_blocks_are_one_document_each(model, make_trainer, texts, documents):
    """This strategy cuts blocks out of one stream and keeps no documents apart: segments count on through a block."""
    trainer = make_trainer(texts, packing=True, packing_strategy="wrapped", max_length=27)
    stream = [token_id for document in documents for token_id in document]
    blocks = {tuple(stream[start : start + 27]) for start in range(0, len(stream), 27)}
    batch = batch_of(trainer)
    batch.pop("labels")
    with torch.no_grad():
        logits = trainer.model.eval()(**batch).logits
    lengths = batch["attention_mask"].sum(dim=1)
    rows = [tuple(row[:length].tolist()) for row, length in zip(batch["input_ids"], lengths, strict=True)]
    assert set(rows) == blocks
    for row, length, row_logits in zip(rows, lengths, logits, strict=True):
        torch.testing.assert_close(row_logits[:length], logits_alone(model, row), atol=2e-5, rtol=1e-5)


@one_inter_encoding
@pytest.mark.parametrize("settings", [{"max_length": 20}, {**PACKED, "max_length": 20}], ids=["padded", "packed"])
def test_segment_ids_of_a_tokenized_data_set_do_not_outlive_cutting_and_packing(
    model, make_trainer, tokenizer, documents, settings
):
    rows = []
    for document in documents:
        row = dict(tokenizer(text_of(document[:-1]) + "</s>"))
        assert row["input_ids"] == document
        rows.append({**row, "segment_ids": [9] * len(document)})  # wrong ones would change the loss
    trainer = make_trainer(Dataset.from_list(rows), **settings, remove_unused_columns=False)
    assert "segment_ids" not in batch_of(trainer)
    assert first_loss(trainer) == pytest.approx(loss_of(model, [each[:20] for each in documents]), rel=1e-5)


@one_inter_encoding
def test_a_collator_that_pads_with_the_tokenizer_gets_segment_ids_of_what_was_cut(
    model, make_trainer, tokenizer, texts, documents
):
    collator = DataCollatorForSeq2Seq(tokenizer)
    trainer = make_trainer(texts, data_collator=collator, max_length=20)
    batch = batch_of(trainer)
    for row, segment_ids in zip(batch["input_ids"].tolist(), batch["segment_ids"].tolist(), strict=True):
        length = len(row) - row.count(PADDING)
        ended = [sum(token_id in SEPARATORS for token_id in row[:index]) for index in range(length)]
        assert segment_ids == ended + [-1] * row.count(PADDING)
    assert first_loss(trainer) == pytest.approx(loss_of(model, [each[:20] for each in documents]), rel=1e-5)


@one_inter_encoding
@pytest.mark.parametrize("settings", [{}, PACKED], ids=["padded", "packed"])
def test_only_completions_are_scored(model, make_trainer, documents, settings):
    """The segment that a prompt begins goes on in the completion."""
    pairs = [(document[: len(document) // 3], document[len(document) // 3 : -1]) for document in documents[:2]]
    rows = [{"prompt": text_of(prompt) + " ", "completion": text_of(completion)} for prompt, completion in pairs]
    trainer = make_trainer(Dataset.from_list(rows), **settings)
    scored = [[False] * len(prompt) + [True] * (len(completion) + 1) for prompt, completion in pairs]
    assert first_loss(trainer) == pytest.approx(loss_of(model, documents[:2], scored), rel=1e-5)


@one_inter_encoding
@pytest.mark.parametrize("settings", [{}, PACKED], ids=["padded", "packed"])
def test_only_turns_of_the_assistant_are_scored(model, make_trainer, tokenizer, documents, settings):
    asked, answered = documents[1][:5], documents[1][5:-1]
    chat = [{"role": "user", "content": text_of(asked)}, {"role": "assistant", "content": text_of(answered)}]
    conversation = [40, *asked, 41, *answered, EOS]
    dataset = Dataset.from_list([{"messages": chat}, {"messages": chat + chat}])
    trainer = make_trainer(dataset, **settings, assistant_only_loss=True)
    scored = [False] * (len(asked) + 2) + [True] * (len(answered) + 1)
    expected = loss_of(model, [conversation, conversation + conversation], [scored, scored + scored])
    assert first_loss(trainer) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("settings", [{}, PACKED], ids=["padded", "packed"])
def test_lora_trains_in_the_trainer(model, make_trainer, texts, documents, settings):
    config = lora_config(model.config, intra="trained", task_type="CAUSAL_LM")
    trainer = make_trainer(texts, peft_config=config, **settings, max_steps=4, learning_rate=1e-2)
    assert first_loss(trainer) == pytest.approx(loss_of(model, documents), rel=1e-5)
    merged = trainer.model.merge_and_unload()
    assert loss_of(merged, documents) < trainer.state.log_history[-2]["loss"] < trainer.state.log_history[0]["loss"]
    changed = {name for name, p in merged.named_parameters() if not torch.equal(p, model.get_parameter(name))}
    kinds = {"llama": {"q_proj", "v_proj"}, "gpt_neox": {"query_key_value"}}[model.config.model_type[5:]]
    levels = {str(at) for at in range(len(model.config.inner_separator_token_ids))}  # of `inner_encodings`
    assert {name.split(".")[-2] for name in changed} == {"intra_encoding"} | levels | kinds


@one_inter_encoding
def test_a_preference_is_scored_as_each_answer_alone(model, tokenizer, documents, tmp_path):
    """The loss of DPO (Rafailov et al., 2023), from a reference that is not the model."""
    prompt, chosen, rejected = documents[1][:8], documents[3][:-1], documents[0][:-1]
    row = {"prompt": text_of(prompt) + " ", "chosen": text_of(chosen), "rejected": text_of(rejected)}
    reference = copy.deepcopy(model)
    torch.nn.init.normal_(reference.get_output_embeddings().weight, std=0.3)
    settings = {"bf16": False, "use_cpu": True, "report_to": "none", "logging_steps": 1, "max_steps": 1}
    trainer = DPOTrainer(
        copy.deepcopy(model),
        copy.deepcopy(reference),
        DPOConfig(str(tmp_path), beta=0.1, save_strategy="no", disable_tqdm=True, **settings),
        train_dataset=Dataset.from_list([row]),
        processing_class=tokenizer,
    )

    def log_probability(scorer, answer):
        document = [*prompt, *answer, EOS]
        logits = logits_alone(scorer, document)[len(prompt) - 1 : -1]
        return -cross_entropy(logits, torch.tensor([*answer, EOS]), reduction="sum")

    margins = [log_probability(model, answer) - log_probability(reference, answer) for answer in (chosen, rejected)]
    expected = -logsigmoid(0.1 * (margins[0] - margins[1])).item()
    assert first_loss(trainer) == pytest.approx(expected, rel=1e-4)


@pytest.fixture
def demo_model(tmp_path, monkeypatch):
    """A model with a tokenizer where the script's docstring looks for them, in the working directory."""
    monkeypatch.chdir(tmp_path)
    plain = train_tokenizer(["After one comes two. After two comes three.\n"] * 5, vocab_size=300)
    tokenizer = BipeTokenizer.from_tokenizer(plain)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"vocab_size": len(tokenizer), "separator_token_ids": tokenizer.separator_token_ids}
    model = BipeLlamaForCausalLM(BipeLlamaConfig(**size, **tokens))
    for part in (tokenizer, model):
        part.save_pretrained("runs/demo/tiny_bipe_rope")
    return model


def run_script(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stop.value.code


def test_the_docstring_of_the_script_runs_from_data_to_a_merged_model(demo_model, monkeypatch):
    blocks = re.findall(r"(?:^    .*\n)+", SCRIPT.read_text().split('"""')[1], flags=re.MULTILINE)
    make_data, train, merge = map(textwrap.dedent, blocks)
    subprocess.run(make_data, shell=True, check=True)
    python, script, *words = shlex.split(train.replace("\\\n", ""))
    assert (python, script) == ("python", "scripts/finetune_lora.py")
    assert run_script(monkeypatch, *words) == 0
    exec(compile(merge, str(SCRIPT), "exec"), {})
    ids = torch.arange(2, 30)[None]
    with torch.no_grad():
        logits = {
            folder: AutoModelForCausalLM.from_pretrained(folder)(ids).logits for folder in ("runs/lora", "runs/merged")
        }
        moved = (logits["runs/lora"] - demo_model(ids).logits).abs().max()
    torch.testing.assert_close(logits["runs/merged"], logits["runs/lora"])
    assert moved > 1e-4
    assert type(AutoTokenizer.from_pretrained("runs/merged")) is BipeTokenizer


def test_the_script_moves_the_encoding_to_that_of_the_model(demo_model, monkeypatch, capsys):
    Path("texts.jsonl").write_text('{"text": "After one comes two. After two comes three."}\n' * 20)
    words = ["--model", "runs/demo/tiny_bipe_rope", "--data", "texts.jsonl", "--output_dir", "runs/new"]
    words += ["--intra", "frozen", "--bf16", "False", "--use_cpu", "True", "--packing", "False"]
    words += ["--max_steps", "4", "--logging_steps", "1", "--schedule"]
    seen = []

    def on_log(self, args, state, control, model=None, **kwargs):
        seen.append(model.base_model.config.token_share)

    monkeypatch.setattr(EncodingSchedule, "on_log", on_log)
    assert run_script(monkeypatch, *words, '{"token_share": [1.0, 0.0]}') == 0
    assert seen[:4] == [0.5, 0.0, 0.0, 0.0]
    shutil.rmtree("runs/new")
    assert run_script(monkeypatch, *words, '{"token_share": [1.0, 0.5]}') == 2
    message = "--schedule: token_share ends at 0.5, but runs/demo/tiny_bipe_rope has 0.0; convert it again with"
    assert message in capsys.readouterr().err


def test_the_script_refuses_bad_input_with_one_line(demo_model, monkeypatch, capsys):
    Path("rows.jsonl").write_text('{"question": "a"}\n' * 2)
    Path("texts.jsonl").write_text('{"text": "a"}\n' * 2)
    Path("broken.jsonl").write_text("text\n")
    arguments = {"--model": "runs/demo/tiny_bipe_rope", "--data": "texts.jsonl", "--output_dir": "runs/new"}
    for changes, message in (
        ({"--data": "rows.jsonl"}, "--data rows.jsonl: needs a column text"),
        ({"--data": "broken.jsonl"}, "cannot read broken.jsonl"),
        ({"--data": "absent.jsonl"}, "absent.jsonl"),
        ({"--output_dir": "runs"}, "--output_dir runs: the folder holds something"),
    ):
        words = [word for pair in (arguments | changes).items() for word in pair]
        assert run_script(monkeypatch, *words, "--intra", "frozen", "--bf16", "False") == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("finetune_lora: error: ")]
        assert message in line
    assert not Path("runs/new").exists()
