"""SCROLLS: what a model reads, what it learns, how its answers are written down and scored."""

import importlib.util
import json
import random
import re
import shutil
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from answer_loss import assert_loss_is_that_of_the_answer
from datasets import Dataset, DatasetDict
from families import FAMILIES
from hub_client import Client, with_package
from hub_server import Hub
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM
from words import WORDS

from bipe_hf import BipeTokenizer
from bipe_hf.commands import main
from bipe_hf.lab.common.checkpoints import Checkpoint
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.lab.finetuning import RowArguments, TaskArguments
from bipe_hf.lab.finetuning.tasks import TASKS
from bipe_hf.lab.tasks.scrolls import SCROLLS_TASKS, ScrollsEvaluation, answer_scrolls, encode_prompts, run, score
from bipe_hf.lab.tasks.scrolls import data as scrolls_data
from bipe_hf.lab.tasks.scrolls.data import read_split
from bipe_hf.model.errors_bipe import InputError


pytestmark = pytest.mark.usefixtures("own_datasets_cache", "no_progress_bars")

QUESTION = "Which one?"
OPTIONS = " (A) good\n (B) bad\n (C) the cat\n (D) that hill"
GOOD = {"id": "a", "input": f"{QUESTION}\n\nthe cat", "output": "cat"}
OTHER = {**GOOD, "id": "b"}


def make_tokenizer() -> BipeTokenizer:
    text = " ".join(WORDS) + " good bad\nQuestion: Which one?\nAnswer:\nSummary:\n (A) (B) (C) (D)"
    return BipeTokenizer.from_tokenizer(train_tokenizer([text] * 20, 340))


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def opening_tokenizer():
    """One that puts a token before every text, as that of Llama does."""
    tokenizer = make_tokenizer()
    tokenizer.bos_token = "<|bos|>"
    tokenizer.add_special_tokens({"bos_token": "<|bos|>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", tokenizer.bos_token_id)]
    )
    return tokenizer


def make_model(family, tokenizer, **fields):
    torch.manual_seed(0)
    return (
        FAMILIES[family]
        .make_causal_lm(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_segment_length=32,
            max_position_embeddings=64,
            separator_token_ids=tokenizer.separator_token_ids,
            **fields,
        )
        .eval()
    )


@pytest.fixture(scope="module")
def start(tokenizer, tmp_path_factory):
    """A function from a family to the folder of a tiny model that answers every prompt differently."""
    folder = tmp_path_factory.mktemp("start")
    for family in FAMILIES:
        make_model(family, tokenizer, initializer_range=0.3).save_pretrained(folder / family)
        tokenizer.save_pretrained(folder / family)
    return lambda family: str(folder / family)


def make_rows(task, count, seed=0):
    """Rows of a task: which of two words stands in the document. Every third example has a second reference."""
    draw = random.Random(seed)
    for number in range(count):
        answer = draw.choice(["good", "bad"])
        words = draw.choices(WORDS, k=draw.randint(3, 9))
        document = " ".join([*words[:2], answer, *words[2:]])
        question = {"quality": f"{QUESTION}\n\n{OPTIONS}\n\n"}.get(task, f"{QUESTION}\n\n")
        row = {"id": f"e{number}", "input": (question if SCROLLS_TASKS[task].has_question else "") + document}
        yield row | {"pid": f"e{number}_0", "output": answer}
        if number % 3 == 0:
            yield row | {"pid": f"e{number}_1", "output": f"{answer} {words[0]}"}


def write_rows(folder, task, **splits):
    (folder / task).mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        (folder / task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder as the archives of SCROLLS have them. The test split has no answers."""
    folder = tmp_path_factory.mktemp("data")
    for task in SCROLLS_TASKS:
        hidden = [row | {"output": None} for row in make_rows(task, 3, seed=3)]
        splits = {"train": make_rows(task, 60, seed=1), "validation": make_rows(task, 7, seed=2), "test": hidden}
        write_rows(folder, task, **splits)
    return str(folder)


def error_line(capsys) -> str:
    captured = capsys.readouterr().err.splitlines()[-1]
    assert captured.startswith("bipe-hf: error: ")
    return captured


# Data


def test_inputs_come_apart_into_question_and_document():
    assert SCROLLS_TASKS["qasper"].split_input("Who\nran?\n\nThe cat.\n\nIt ran.") == (
        "Who\nran?",
        "The cat.\n\nIt ran.",
    )
    assert SCROLLS_TASKS["gov_report"].split_input("The cat.\n\nIt ran.") == ("", "The cat.\n\nIt ran.")
    options = "(A) one\n\n(B) two\n\n(C) three\n\n(D) four"
    assert SCROLLS_TASKS["quality"].split_input(f"Who?\n\n{options}\n\nThe cat.\n\nIt (D) ran.") == (
        f"Who?\n\n{options}",
        "The cat.\n\nIt (D) ran.",
    )


def test_each_task_is_asked_and_scored_as_published():
    questions = {name for name, task in SCROLLS_TASKS.items() if task.has_question}
    assert questions == {"qmsum", "narrative_qa", "qasper", "quality", "contract_nli"}
    metrics = {name: (task.metric, task.answer_length) for name, task in SCROLLS_TASKS.items()}
    assert metrics == {
        "gov_report": ("rouge", 1000),
        "summ_screen_fd": ("rouge", 1000),
        "qmsum": ("rouge", 1000),
        "narrative_qa": ("f1", 200),
        "qasper": ("f1", 200),
        "quality": ("exact_match", 200),
        "contract_nli": ("exact_match", 200),
    }


def test_texts_that_look_like_dates_or_numbers_stay_text(tmp_path):
    """Where a whole column looks so, the reader of `datasets` takes it for one of dates."""
    texts = ["2020-01-01", "2020-01-02 10:00:00", "2020-01-03T10:00:00Z"]
    rows = [{"id": text, "input": text, "output": text} for text in texts]
    write_rows(tmp_path, "gov_report", validation=[row | {"pid": "7"} for row in rows])
    assert read_split(str(tmp_path), "gov_report", "validation").to_list() == rows


def test_a_changed_file_is_read_again_and_blank_lines_are_no_rows(tmp_path):
    write_rows(tmp_path, "qasper", train=[GOOD, OTHER])
    file = tmp_path / "qasper" / "train.jsonl"
    assert read_split(str(tmp_path), "qasper", "train").to_list() == [GOOD, OTHER]
    file.write_text(f"{json.dumps(OTHER)}\n\n")
    assert read_split(str(tmp_path), "qasper", "train").to_list() == [OTHER]
    file.write_text("{")
    with pytest.raises(ValueError, match=r"cannot read .*train\.jsonl: line 1 is no JSON"):
        read_split(str(tmp_path), "qasper", "train")


@pytest.fixture
def repository(data, tmp_path):
    """Files as in `tau/scrolls`: `qasper.zip` with `qasper/train.jsonl` and so on."""
    folder = tmp_path / "repository"
    folder.mkdir()
    with zipfile.ZipFile(folder / "qasper.zip", "w") as archive:
        for file in Path(data, "qasper").iterdir():
            archive.write(file, f"qasper/{file.name}")
    return folder


def test_archives_hold_the_splits(data, repository, monkeypatch):
    def download(repo_id, filename, repo_type):
        assert (repo_id, repo_type) == ("tau/scrolls", "dataset")
        return str(repository / filename)

    monkeypatch.setattr(scrolls_data, "hf_hub_download", download)
    for split in ("train", "validation", "test"):
        rows = read_split("tau/scrolls", "qasper", split)
        assert rows.to_list() == read_split(data, "qasper", split).to_list()


@pytest.mark.slow  # the process takes ten seconds to start
def test_archives_come_from_the_hub(data, repository, tmp_path):
    with Hub({"token": "tau"}) as hub:
        hub.publish("tau/scrolls", repository)
        client = Client(hub.url, tmp_path / "home", with_package)
        try:
            rows = client(read_split, "tau/scrolls", "qasper", "train")
            assert rows.to_list() == read_split(data, "qasper", "train").to_list()
            with pytest.raises(ValueError, match='cannot read "tau/scrolls" .*404'):
                client(read_split, "tau/scrolls", "qmsum", "train")
        finally:
            client.close()


# Prompts


@settings(max_examples=60, deadline=None)
@given(
    question=st.integers(1, 12),
    document=st.integers(1, 40),
    answer=st.integers(1, 12),
    answer_length=st.integers(1, 12),
    max_length=st.integers(60, 100),
    opens=st.booleans(),
    task=st.sampled_from(["qasper", "quality", "gov_report"]),
)
def test_only_the_document_is_cut_and_only_at_its_end(
    tokenizer, opening_tokenizer, question, document, answer, answer_length, max_length, opens, task
):
    tokenizer = opening_tokenizer if opens else tokenizer
    draw = random.Random(question * document)
    question, document, answer = (" ".join(draw.choices(WORDS, k=count)) for count in (question, document, answer))
    asked = {"qasper": question, "quality": f"{question}\n\n(A) a (B) b (C) c (D) d", "gov_report": ""}[task]
    row = {"input": f"{asked}\n\n{document}" if asked else document, "output": answer}

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    tail = ids(f"\n\nQuestion: {asked}\nAnswer:\n" if asked else "\n\nSummary:\n")
    answer_ids = [*ids(answer), tokenizer.eos_token_id]
    opening = [tokenizer.bos_token_id] * opens
    room = max_length - len(opening) - len(tail) - max(len(answer_ids), answer_length)
    if room < 2:
        return
    part = DatasetDict(train=Dataset.from_list([row]), validation=Dataset.from_list([row]))
    learnt = TASKS["scrolls"](TaskArguments(scrolls_task=task), RowArguments(answer_length=answer_length), part)
    (example,), cut = learnt.examples(part["train"], "train", tokenizer, max_length)
    assert example["input_ids"] == opening + ids(document)[:room] + tail + answer_ids
    assert len(example["input_ids"]) <= max_length
    assert cut == (len(ids(document)) > room)
    assert example["labels"] == [-100] * (len(example["input_ids"]) - len(answer_ids)) + answer_ids
    if len(answer_ids) <= answer_length:  # the model is asked with the tokens that it was trained on
        (prompt,), _ = encode_prompts([row["input"]], SCROLLS_TASKS[task], tokenizer, max_length, [answer_length])
        assert prompt == example["input_ids"][: -len(answer_ids)]


def test_of_8192_tokens_questions_leave_7991_and_summaries_7184_with_7_of_prompt(opening_tokenizer):
    document = " ".join(WORDS * 600)
    for task, text in (("qasper", f"{QUESTION}\n\n{document}"), ("gov_report", document)):
        answer_length = SCROLLS_TASKS[task].answer_length
        (prompt,), (is_cut,) = encode_prompts([text], SCROLLS_TASKS[task], opening_tokenizer, 8192, [answer_length])
        assert prompt[0] == opening_tokenizer.bos_token_id
        assert len(prompt) - 1 == {"qasper": 7991, "gov_report": 7184 + 7}[task]
        assert is_cut


def learn(row, tokenizer, max_length, answer_length):
    """The example that a row becomes in training, and whether something of it was cut."""
    part = DatasetDict(train=Dataset.from_list([row]), validation=Dataset.from_list([row]))
    task = TASKS["scrolls"](TaskArguments(scrolls_task="qasper"), RowArguments(answer_length=answer_length), part)
    (example,), cut = task.examples(part["train"], "train", tokenizer, max_length)
    return example, cut


def test_an_answer_that_leaves_the_document_no_room_is_cut_where_answers_of_the_model_end(tokenizer):
    document, answer = "the good cat", "that hill " * 40
    row = {"input": f"{QUESTION}\n\n{document}", "output": answer.strip()}
    ids = {name: tokenizer(text)["input_ids"] for name, text in (("document", document), ("answer", row["output"]))}
    tail = tokenizer(f"\n\nQuestion: {QUESTION}\nAnswer:\n")["input_ids"]
    whole = len(tail) + len(ids["answer"]) + 1  # and eos

    example, cut = learn(row, tokenizer, whole + 1, 6)
    assert example["input_ids"] == ids["document"] + tail + ids["answer"][:6]
    assert example["labels"] == [-100] * (len(ids["document"]) + len(tail)) + ids["answer"][:6]
    assert cut == 1
    example, cut = learn(row, tokenizer, whole + 2, 6)
    assert example["input_ids"] == ids["document"][:2] + tail + ids["answer"] + [tokenizer.eos_token_id]
    assert cut == 1
    assert learn(row, tokenizer, whole + len(ids["document"]), 6)[1] == 0


def test_names_of_special_tokens_are_plain_text(tokenizer):
    special = tokenizer.eos_token
    row = {"input": f"What is {special}?\n\nthe {special} cat", "output": f"a {special}"}
    example, _ = learn(row, tokenizer, 300, 6)
    assert example["input_ids"].index(tokenizer.eos_token_id) == len(example["input_ids"]) - 1
    text = f"the {special} cat\n\nQuestion: What is {special}?\nAnswer:\na {special}"
    assert tokenizer.decode(example["input_ids"][:-1]) == text
    (prompt,), _ = encode_prompts([row["input"]], SCROLLS_TASKS["qasper"], tokenizer, 300, [6])
    assert tokenizer.decode(prompt) == text.removesuffix(f"a {special}")
    assert tokenizer.eos_token_id not in prompt


def test_loss_is_that_of_the_answer_alone(family, tokenizer):
    row = {"input": f"{QUESTION}\n\nIt ran. The good cat.", "output": "the good cat"}
    before = (
        tokenizer("It ran. The good cat.")["input_ids"] + tokenizer("\n\nQuestion: Which one?\nAnswer:\n")["input_ids"]
    )
    after = [*tokenizer("the good cat")["input_ids"], tokenizer.eos_token_id]
    part = DatasetDict(train=Dataset.from_list([row]), validation=Dataset.from_list([row]))
    task = TASKS["scrolls"](TaskArguments(scrolls_task="qasper"), RowArguments(), part)
    (example,), _ = task.examples(part["train"], "train", tokenizer, 300)
    model = make_model(family, tokenizer, initializer_range=0.3)
    assert_loss_is_that_of_the_answer(model, tokenizer, example, before, after)


def test_an_answer_begins_a_segment(tokenizer):
    (prompt,), _ = encode_prompts([f"{QUESTION}\n\nthe cat"], SCROLLS_TASKS["qasper"], tokenizer, 300, [200])
    assert prompt[-1] in tokenizer.separator_token_ids


# Scores


def test_f1_counts_words_that_prediction_and_best_reference_share():
    predictions = ["The cat, SAT!", "a mat", "ran"]
    references = [["It fell", "a cat sat down"], ["the   mat."], ["fell"]]
    # Of 2 words both stand among the 3 of the reference: 2 / (2 + 3) * 2; then all of them; then none.
    assert score("f1", predictions, references) == pytest.approx({"f1": 100 * (0.8 + 1 + 0) / 3}, rel=1e-5)


def test_exact_match_is_that_of_the_text_but_for_case_punctuation_and_articles():
    predictions = ["not mentioned.", "Entailment", "it was the next planet", "(B) it was the next planet"]
    references = [
        ["Not mentioned"],
        ["Contradiction"],
        ["they were curious", "It was next planet!"],
        ["it was next planet"],
    ]
    assert score("exact_match", predictions, references) == {"exact_match": 50.0}


def test_rouge_takes_the_best_reference_for_each_length_of_phrases():
    prediction = "the cat sat on the mat"
    references = ["The cat lay on a mat.", "sat on"]
    # First reference: 4 words of 6 and 6 (the, cat, on, mat), 1 pair of 5 and 5 (the cat), 4 words in order.
    # Second: 2 words of 6 and 2, 1 pair of 5 and 1: F1 = 2 * 1 / (5 + 1).
    scores = score("rouge", [prediction], [references])
    expected = {"rouge1": 200 / 3, "rouge2": 100 / 3, "rougeL": 200 / 3}
    assert scores == pytest.approx(expected | {"rouge_geometric_mean": (200 / 3 * 100 / 3 * 200 / 3) ** (1 / 3)})
    assert score("rouge", ["hills"], [["hill"]])["rouge1"] == 0  # words are not stemmed


def test_geometric_mean_is_that_of_the_means_over_examples():
    scores = score("rouge", ["the cat sat", "it ran"], [["the cat sat"], ["nothing of that"]])
    assert scores == pytest.approx(dict.fromkeys(["rouge1", "rouge2", "rougeL", "rouge_geometric_mean"], 50))
    scores = score("rouge", ["cat"], [["cat"]])  # one word has no pair
    assert scores == {"rouge1": 100, "rouge2": 0, "rougeL": 100, "rouge_geometric_mean": 0}


# Answers


def options(start, data, tmp_path, **changes):
    given = {"model": start, "output": tmp_path / "out.json", "task": "qasper", "data": data, "device": "cpu"}
    return given | {"max_length": 80, "answer_length": 6} | changes


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_the_likeliest_tokens_after_each_prompt(family, start, data, tmp_path, tokenizer):
    evaluation = answer_scrolls(**options(start(family), data, tmp_path))
    model = AutoModelForCausalLM.from_pretrained(start(family)).eval()
    rows = {row["id"]: row["input"] for row in read_split(data, "qasper", "validation")}
    expected = {}
    for key, text in rows.items():
        document = tokenizer(text.removeprefix(f"{QUESTION}\n\n"))["input_ids"]
        ids = document + tokenizer(f"\n\nQuestion: {QUESTION}\nAnswer:\n")["input_ids"]
        begin = len(ids)
        while len(ids) < begin + 6 and ids[-1] != tokenizer.eos_token_id:
            with torch.no_grad():
                ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
        expected[key] = tokenizer.decode(ids[begin:], skip_special_tokens=True).strip()
    assert len(set(expected.values())) > 1
    predictions = lines(tmp_path / "out.jsonl")
    assert predictions == [{"id": key, "prediction": answer} for key, answer in expected.items()]
    references = {key: [] for key in rows}
    for row in read_split(data, "qasper", "validation"):
        references[row["id"]].append(row["output"])
    assert max(map(len, references.values())) == 2
    (result,) = evaluation.results
    assert (result.examples, result.references) == (7, 10)
    assert result.value == pytest.approx(score("f1", list(expected.values()), list(references.values()))["f1"])
    assert ScrollsEvaluation.load(tmp_path / "out.json") == evaluation


def test_batches_answer_as_each_prompt_alone(family, start, data, tmp_path):
    for batch_size in (1, 3):
        folder = tmp_path / str(batch_size)
        folder.mkdir()
        answer_scrolls(**options(start(family), data, folder, batch_size=batch_size))
    prompts = [row["input"] for row in read_split(data, "qasper", "validation")]
    assert any(len(one) != len(other) for one, other in pairwise(prompts))
    assert (tmp_path / "1" / "out.jsonl").read_text() == (tmp_path / "3" / "out.jsonl").read_text()


def test_an_interrupted_run_goes_on_to_what_one_go_gives(family, start, data, tmp_path, monkeypatch, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    expected = answer_scrolls(**options(start(family), data, whole))
    generate, calls = run.generate_answers, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return generate(*arguments)

    monkeypatch.setattr(run, "generate_answers", interrupted)
    command = ["scrolls", start(family), "--task", "qasper", "--data", data, "--device", "cpu"]
    command += ["--max-length", "80", "--answer-length", "6", "--output", str(parts / "out.json")]
    assert main(command) == 130
    assert "with --resume goes on" in capsys.readouterr().err
    file = parts / "out.jsonl"
    assert len(lines(file)) == 3
    assert ScrollsEvaluation.load(parts / "out.json").results == []
    file.write_text(file.read_text()[:-5])  # killed in the middle of a line

    assert main([*command, "--resume"]) == 0
    assert len(calls) == 4 + 5
    assert file.read_bytes() == (whole / "out.jsonl").read_bytes()
    assert ScrollsEvaluation.load(parts / "out.json").results == expected.results
    monkeypatch.setattr(Checkpoint, "load", None)  # nothing is left to answer
    assert main([*command, "--resume"]) == 0


def test_a_split_without_answers_is_predicted_but_not_scored(start, data, tmp_path, capsys):
    given = options(start("llama"), data, tmp_path, split="test")
    with pytest.raises(ValueError, match="the test split of .* has no answers to score with"):
        answer_scrolls(**given)
    assert list(tmp_path.iterdir()) == []
    assert answer_scrolls(**given, predict_only=True).results == []
    assert [line["id"] for line in lines(tmp_path / "out.jsonl")] == ["e0", "e1", "e2"]


def test_predictions_alone_need_no_answers_in_the_data(start, tmp_path):
    write_rows(tmp_path / "rows", "qasper", validation=[{key: GOOD[key] for key in ("id", "input")}])
    given = options(start("llama"), str(tmp_path / "rows"), tmp_path)
    assert answer_scrolls(**given, predict_only=True).results == []
    assert [line["id"] for line in lines(tmp_path / "out.jsonl")] == ["a"]


@pytest.mark.parametrize("changes", [{"answer_length": 5}, {"max_length": 79}, {"task": "narrative_qa"}, {"model": 1}])
def test_predictions_of_other_settings_are_not_added_to(changes, start, data, tmp_path):
    given = options(start("llama"), data, tmp_path)
    answer_scrolls(**given)
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=r"out.json exists \(--overwrite"):
        answer_scrolls(**given)
    if "model" in changes:
        changes = {"model": start("gpt_neox")}
    with pytest.raises(ValueError, match=f"resume: .* was made with other settings: .*{next(iter(changes))} "):
        answer_scrolls(**given | changes, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept
    answer_scrolls(**given | changes, overwrite=True)
    assert ScrollsEvaluation.load(tmp_path / "out.json").settings.items() >= changes.items()


def test_answers_are_kept_and_scored_without_what_writes_tables(start, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tabulate", None)
    evaluation = answer_scrolls(**options(start("llama"), data, tmp_path))
    assert ScrollsEvaluation.load(tmp_path / "out.json") == evaluation
    assert capsys.readouterr().err.count("out.md is not written: tables need tabulate") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"out.json", "out.jsonl"}


def test_predictions_of_earlier_versions_are_not_added_to(start, data, tmp_path):
    """Nothing says that they are of the weights as they are now."""
    given = options(start("llama"), data, tmp_path)
    answer_scrolls(**given)
    content = json.loads((tmp_path / "out.json").read_text())
    content["settings"]["model_fingerprint"] = "0" * 64
    (tmp_path / "out.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"out\.json tells its model by the time of its files.*--overwrite"):
        answer_scrolls(**given, resume=True)
    with pytest.raises(InputError, match="was made with other settings: .*answer_length"):
        answer_scrolls(**given | {"answer_length": 5}, resume=True)


def test_a_record_of_another_program_counts_as_none(start, data, tmp_path):
    model = shutil.copytree(start("llama"), tmp_path / "model")
    (model / "finetuning.json").write_text(json.dumps({"task": "scrolls", "epochs": 3}))
    with pytest.warns(UserWarning, match=r"finetuning\.json is of another program"):
        settings = answer_scrolls(**options(str(model), data, tmp_path)).settings
    assert settings.items() >= {"task": "qasper", "max_length": 80, "answer_length": 6}.items()


def test_predictions_for_other_data_are_not_added_to(start, data, tmp_path):
    rows = list(make_rows("qasper", 4))
    write_rows(tmp_path / "own", "qasper", validation=rows)
    given = options(start("llama"), str(tmp_path / "own"), tmp_path)
    answer_scrolls(**given)
    rows[0]["input"] = rows[1]["input"] = rows[0]["input"] + " more"
    write_rows(tmp_path / "own", "qasper", validation=rows)
    with pytest.raises(ValueError, match="data_sha256"):
        answer_scrolls(**given, resume=True)
    write_rows(tmp_path / "own", "qasper", validation=make_rows("qasper", 4))
    for wrong in (
        {"id": "e9", "prediction": "cat"},
        {"id": "e0", "prediction": None},
        {"id": [], "prediction": "cat"},
    ):
        (tmp_path / "out.jsonl").write_text(json.dumps(wrong) + "\n")
        with pytest.raises(ValueError, match=r"line 1 of .*out\.jsonl is no prediction for this data"):
            answer_scrolls(**given, resume=True)


# Whole runs


def train(task, model, data, folder, /, **keys):
    keys = {"initial_model": model, "data": data, "scrolls_task": task, "output_dir": str(folder)} | keys
    keys = {"max_length": 100, "answer_length": 8, "per_device_train_batch_size": 8, "learning_rate": 1e-2} | keys
    config = ROOT / "configs" / "finetune_scrolls.yaml"
    keys |= {"bf16": "false", "use_cpu": "true", "report_to": "none", "gradient_accumulation_steps": 1}
    flags = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    return main(["finetune", str(config), *flags])


@pytest.mark.parametrize(("task", "metric"), [("contract_nli", "exact_match"), ("summ_screen_fd", "rouge1")])
def test_what_was_learnt_is_answered(family, task, metric, start, data, tmp_path, tokenizer, capsys):
    """The shipped configuration, with fewer steps and tokens; then the command asks as was trained."""
    make_model(family, tokenizer).save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    steps = {"max_steps": 80, "eval_steps": 40, "save_steps": 40, "lr_scheduler_type": "constant"}
    train_data = tmp_path / "rows"
    rows = [row for row in make_rows(task, 120) if row["pid"].endswith("_0")]
    write_rows(train_data, task, train=rows[:100], validation=rows[100:])
    assert train(task, str(tmp_path / "start"), str(train_data), tmp_path / "run", **steps) == 0
    assert main(["scrolls", str(tmp_path / "run"), "--output", str(tmp_path / "out.json"), "--device", "cpu"]) == 0
    evaluation = ScrollsEvaluation.load(tmp_path / "out.json")
    expected = {"task": task, "data": str(train_data), "max_length": 100, "answer_length": 8}
    assert evaluation.settings.items() >= expected.items()
    values = {result.metric: result.value for result in evaluation.results}
    assert values[metric] >= 90
    assert f"| {metric} | {values[metric]:.2f} |" in (tmp_path / "out.md").read_text()
    assert f"{values[metric]:.2f}" in capsys.readouterr().out


def test_a_model_that_was_fine_tuned_for_another_task_is_asked_as_any(start, data, tmp_path):
    assert train("qasper", start("llama"), data, tmp_path / "run", max_steps=1, eval_steps=1, save_steps=1) == 0
    given = options(str(tmp_path / "run"), data, tmp_path, task="narrative_qa", answer_length=None, max_length=None)
    answered = answer_scrolls(**given, batch_size=7).settings
    assert (answered["max_length"], answered["answer_length"]) == (8192, 200)


def test_one_answer_that_is_too_long_does_not_stop_a_training(start, tmp_path, capsys):
    rows = [*make_rows("qasper", 5)]
    long = {"id": "long", "input": f"{QUESTION}\n\nthe cat", "output": " ".join(WORDS * 20)}
    write_rows(tmp_path / "rows", "qasper", train=[*rows, long], validation=rows)
    steps = {"max_steps": 1, "eval_steps": 1, "save_steps": 1}
    assert train("qasper", start("llama"), str(tmp_path / "rows"), tmp_path / "run", **steps) == 0
    assert f"train: 1 of {len(rows) + 1} examples longer than max_length: the end of the" in capsys.readouterr().out


# Bad input


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"scrolls_task": "casper"}, "scrolls_task: 'casper' given, one of gov_report, .* did you mean qasper"),
        ({"data": "nowhere"}, "data: nowhere has no file qasper/train.jsonl"),
        ({"data": "no/where"}, r'"no/where" \(no local folder, so taken for a data set of the Hugging Face Hub'),
        ({"max_length": 12}, "max_length: 12 leaves no room for a document beside the .* of the question 'Which one"),
        ({"answer_length": 0}, "answer_length: 0 given, at least 1 is needed"),
        ({"task": "causal_lm"}, "(answer_length|scrolls_task): causal_lm does not read it, only scrolls"),
        ({"columns": '{"output": "answer"}'}, "columns: scrolls does not read it, only causal_lm"),
    ],
)
def test_bad_settings_of_a_training_are_named(keys, message, start, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train("qasper", start("llama"), data, "run", **keys) == 2
    assert re.search(message, error_line(capsys))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "it holds no rows"),
        (
            [{"id": "a", "input": GOOD["input"]}],
            r"output: row 0 .*is missing|no answers to score with \(column output\)",
        ),
        ([{"question": "a", "answer": "b"}], "line 1 has no 'input', but question, answer"),
        (["a"], "line 1 has no 'input', but \"a\""),
        ([GOOD, {**OTHER, "input": "the cat"}], "row 1 .*does not begin with a question and a blank line"),
        ([GOOD, {**OTHER, "input": "\n\nthe cat"}], "row 1 .*begins with a blank line in place of a question"),
        ([GOOD, {**OTHER, "input": f"{QUESTION}\n\n "}], "row 1 .*holds no document"),
        ([GOOD, {**OTHER, "input": None}], "row 1 .*(is missing|has no input)"),
        ([GOOD, {**GOOD, "output": 3}], "line 2 has 3 as output, text is needed"),
    ],
)
@pytest.mark.parametrize("command", ["finetune", "scrolls"])
def test_bad_data_are_named(command, rows, message, start, tmp_path, capsys):
    write_rows(tmp_path / "rows", "qasper", train=rows, validation=rows)
    if command == "finetune":
        status = train("qasper", start("llama"), str(tmp_path / "rows"), tmp_path / "run")
    else:
        command = ["scrolls", start("llama"), "--task", "qasper", "--data", str(tmp_path / "rows")]
        status = main([*command, "--output", str(tmp_path / "out.json")])
    assert status == 2
    assert re.search(message, error_line(capsys))
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]


def test_options_that_are_missing_are_named(tmp_path, start, capsys):
    write_rows(tmp_path / "rows", "quality", train=[GOOD], validation=[GOOD])
    assert train("quality", start("llama"), str(tmp_path / "rows"), tmp_path / "run") == 2
    assert r"does not begin with a question, options (A) to (D) and a blank line" in error_line(capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": None}, "task: None given, one of gov_report"),
        ({"split": "dev"}, "split: 'dev' is none of train, validation, test"),
        ({"batch_size": 0}, "batch_size: 0 given, at least 1 is needed"),
        ({"max_length": 8}, "max_length: 8 leaves no room for a document"),
        ({"output": "scores.txt"}, "output: scores.txt must end in .json"),
        ({"model": "nowhere"}, "model nowhere: there is no such folder, and it cannot be downloaded"),
        ({"dtype": "int8"}, "dtype: 'int8' is none of"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(changes, message, start, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Checkpoint, "load", None)
    with pytest.raises((ValueError, OSError), match=message):
        answer_scrolls(**options(start("llama"), data, tmp_path) | changes)
    assert list(tmp_path.iterdir()) == []


def test_one_id_stands_for_one_input(start, tmp_path):
    write_rows(tmp_path / "rows", "qasper", validation=[GOOD, {**GOOD, "input": GOOD["input"] + " sat"}])
    with pytest.raises(ValueError, match="rows 0 and 1 have one id, 'a', and two inputs"):
        answer_scrolls(**options(start("llama"), str(tmp_path / "rows"), tmp_path))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("suffix", ["jsonl", "md"])
def test_files_that_belong_to_nothing_are_left_alone(start, data, tmp_path, suffix, resume):
    """`--resume` would not help: it is not named."""
    (tmp_path / f"out.{suffix}").write_text("mine")
    with pytest.raises(
        FileExistsError, match=rf"out\.{suffix} exists without out\.json, .*\(--overwrite replaces it\)$"
    ):
        answer_scrolls(**options(start("llama"), data, tmp_path, resume=resume))
    assert (tmp_path / f"out.{suffix}").read_text() == "mine"


@pytest.mark.parametrize(("task", "package"), [("qasper", "torchmetrics"), ("gov_report", "rouge_score")])
def test_scores_without_their_library_say_what_to_install(task, package, start, data, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(ValueError, match=rf"scores need {package}, .*pip install '\.\[finetune\]'"):
        answer_scrolls(**options(start("llama"), data, tmp_path, task=task))
    assert list(tmp_path.iterdir()) == []
