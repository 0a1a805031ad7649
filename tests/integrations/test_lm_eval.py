"""The lm-evaluation-harness on BiPE models, against log-likelihoods and texts computed one request at a time."""

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import lm_eval
import lm_eval.evaluator
import lm_eval.tasks
import pytest
import torch
from transformers import AutoTokenizer
from word_tokenizer import EOS, make_word_tokenizer, random_words, segment_ids

from bipe_hf.commands import main
from bipe_hf.lab.common.checkpoints import Checkpoint
from bipe_hf.lab.tasks.evaluation import TaskEvaluation, task_table
from bipe_hf.lab.tasks.run import evaluate_tasks
from bipe_hf.model.modeling_bipe import BipeModelMixin


LONGEST = 40  # tokens of a request
NEW_TOKENS = 12
STOP = "w12"
TOKENIZER = make_word_tokenizer()
# Contexts of many lengths, one of them too long, so that batches are padded.
DOCUMENTS = [
    {
        "question": random_words(words, seed=words),
        "choices": [random_words(count, seed=10 * words + count) for count in (1, 1, 2, 5)],
        "answer": words % 4,
        "text": random_words(3 * words, seed=words + 1),
    }
    for words in (3, 9, 14, 33, 47, 5)
]
CHOICE = """
task: words_choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
"""
PERPLEXITY = """
task: words_perplexity
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}]
"""
GENERATION = f"""
task: words_generation
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{STOP}"
generation_kwargs: {{until: ["{STOP}"], max_gen_toks: {NEW_TOKENS}}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
GROUP = """
group: words
task: [words_choice, words_generation]
aggregate_metric_list: [{metric: acc}]
"""
TASKS = ["words_choice", "words_perplexity", "words_generation"]


pytestmark = pytest.mark.usefixtures("own_datasets_cache")


@pytest.fixture(autouse=True)
def _no_tasks_but_ours(monkeypatch):
    """The harness reads 14,000 files of its own to find a task, and asks a dozen programs about the machine."""
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)


@pytest.fixture(scope="module")
def tasks_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    documents = folder / "documents.jsonl"
    documents.write_text("\n".join(map(json.dumps, DOCUMENTS)))
    data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: '{documents}'}}}}\ntest_split: test\n"
    for name, task in (("choice", CHOICE), ("perplexity", PERPLEXITY), ("generation", GENERATION)):
        (folder / f"{name}.yaml").write_text(task.strip() + "\n" + data)
    (folder / "group.yaml").write_text(GROUP)
    return str(folder)


@pytest.fixture
def model(model, tiny_relative):
    return tiny_relative(model, eos_token_id=EOS, max_position_embeddings=LONGEST)


def save(model, folder):
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def checkpoint(model, tmp_path):
    return save(model, tmp_path / "model")


@pytest.fixture(scope="module")
def two_checkpoints(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    fields = {"eos_token_id": EOS, "max_position_embeddings": LONGEST}
    return [
        save(tiny_model(family, inter_encoding="alibi", **fields), folder / family) for family in ("llama", "gpt_neox")
    ]


def harness(checkpoint, tasks_folder, names=TASKS, model_args=None, **kwargs):
    """What `lm_eval --model hf --model_args pretrained=...` computes, with every answer."""
    manager = lm_eval.tasks.TaskManager(include_path=tasks_folder)
    kwargs = {"batch_size": 1, "bootstrap_iters": 0, **kwargs}
    model_args = {"pretrained": checkpoint, **(model_args or {})}
    return lm_eval.simple_evaluate("hf", model_args, tasks=names, task_manager=manager, device="cpu", **kwargs)


def answers(measured, task):
    return [sample["filtered_resps"] for sample in sorted(measured["samples"][task], key=lambda s: s["doc_id"])]


def forward(model, ids):
    """Log-probabilities of shape `(length, vocab)` of one sequence alone, no cache, its segments counted here."""
    with torch.inference_mode():
        tokens, segments = torch.tensor([ids]), torch.tensor([segment_ids(ids)])
        return model(input_ids=tokens, segment_ids=segments, use_cache=False).logits[0].log_softmax(-1)


def log_likelihood(model, context, continuation):
    """Sum of the log-probabilities of `continuation`, and whether each is the likeliest; the end of the context."""
    ids = (context + continuation)[-(LONGEST + 1) :]
    scored = forward(model, ids[:-1])[-len(continuation) :]
    target = torch.tensor(continuation)
    total = scored.gather(-1, target[:, None]).sum().item()
    return total, torch.equal(scored.argmax(-1), target)


def rolling_log_likelihood(model, ids):
    """Windows of LONGEST inputs that score every token once: a short last one begins earlier, to be as long."""
    total = log_likelihood(model, [EOS], ids[:LONGEST])[0]
    for begin in range(LONGEST, len(ids), LONGEST):
        end = min(begin + LONGEST, len(ids))
        total += log_likelihood(model, ids[end - LONGEST - 1 : begin], ids[begin:end])[0]
    return total


def greedy_text(model, context):
    ids = context[-(LONGEST - NEW_TOKENS) :]
    begin = len(ids)
    for _ in range(NEW_TOKENS):
        ids = [*ids, forward(model, ids)[-1].argmax().item()]
        if ids[-1] == EOS:
            break
    return TOKENIZER.decode(ids[begin:], skip_special_tokens=True).split(STOP)[0]


@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
def test_answers_are_those_of_one_request_at_a_time(model, checkpoint, tasks_folder, batch_size):
    """Padded on the right without a mask, padded on the left with one, cached or not: as each request alone."""
    measured = harness(checkpoint, tasks_folder, batch_size=batch_size, max_batch_size=3)

    def encode(text):
        return TOKENIZER(text).input_ids

    for document, got in zip(DOCUMENTS, answers(measured, "words_choice"), strict=True):
        expected = [
            log_likelihood(model, encode(document["question"]), encode(choice)) for choice in document["choices"]
        ]
        assert [value for value, _ in got] == pytest.approx([value for value, _ in expected], abs=1e-4)
        assert [greedy for _, greedy in got] == [greedy for _, greedy in expected]
    rolled = [rolling_log_likelihood(model, encode(document["text"])) for document in DOCUMENTS]
    got = [value for (value,) in answers(measured, "words_perplexity")]
    assert got == pytest.approx(rolled, abs=1e-3)
    perplexity = math.exp(-sum(rolled) / sum(len(document["text"].split()) for document in DOCUMENTS))
    assert measured["results"]["words_perplexity"]["word_perplexity,none"] == pytest.approx(perplexity, rel=1e-4)
    texts = [greedy_text(model, encode(document["question"])) for document in DOCUMENTS]
    assert [text for (text,) in answers(measured, "words_generation")] == texts
    assert len(set(texts)) > len(texts) / 2  # they differ


def test_answers_from_the_cache_of_the_harness_are_the_same(two_checkpoints, tasks_folder, tmp_path, monkeypatch):
    options = {"batch_size": 2, "use_cache": str(tmp_path / "answers")}
    first = harness(two_checkpoints[0], tasks_folder, **options)
    monkeypatch.setattr(BipeModelMixin, "forward", lambda *args, **kwargs: pytest.fail("the model was run"))
    again = harness(two_checkpoints[0], tasks_folder, **options)
    assert all(answers(first, task) == answers(again, task) for task in TASKS)


IN_A_FRESH_PROCESS = """
import json
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "bipe_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import lm_eval
from lm_eval.tasks import TaskManager

folder, tasks_folder, *tasks = sys.argv[1:]
manager = TaskManager(include_path=tasks_folder, include_defaults=False)
options = {"tasks": tasks, "task_manager": manager, "device": "cpu", "batch_size": 4, "bootstrap_iters": 0}
try:
    lm_eval.simple_evaluate("hf", {"pretrained": folder}, **options)
except ValueError as error:
    refusal = str(error)
measured = lm_eval.simple_evaluate("hf", {"pretrained": folder, "trust_remote_code": True}, **options)
with open(f"{folder}/measured.json", "w") as file:
    json.dump({"refusal": refusal, "results": measured["results"]}, file, default=float)
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_a_checkpoint_is_measured_where_this_package_is_not_installed(family, tiny_model, tasks_folder, tmp_path):
    checkpoint = save(tiny_model(family, eos_token_id=EOS, max_position_embeddings=LONGEST), tmp_path / "model")
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, checkpoint, tasks_folder, *TASKS]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, timeout=120)
    there = json.loads(Path(checkpoint, "measured.json").read_text())
    assert "trust_remote_code=True" in there["refusal"]
    assert there["results"] == harness(checkpoint, tasks_folder, batch_size=4)["results"]


@pytest.mark.slow
def test_the_command_line_of_the_harness_gives_the_same_scores(two_checkpoints, tasks_folder, tmp_path):
    checkpoint = two_checkpoints[0]
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", ",".join(TASKS), "--device", "cpu"]
    command += ["--model_args", f"pretrained={checkpoint},trust_remote_code=True", "--include_path", tasks_folder]
    command += ["--output_path", str(tmp_path / "out.json")]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path / "home")}
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, timeout=300)
    (written,) = tmp_path.glob("out*.json")
    assert scores(json.loads(written.read_text())) == scores(harness(checkpoint, tasks_folder))


def values(evaluation):
    return {(row.model, row.task, row.metric): row.value for row in evaluation.results}


def scores(measured):
    """The numbers that the harness reports, by task and metric."""
    return {
        (task, key.removesuffix(",none")): value
        for task, metrics in measured["results"].items()
        for key, value in metrics.items()
        if key.endswith(",none") and "stderr" not in key
    }


def test_every_model_gets_the_scores_that_the_harness_gives_it_alone(two_checkpoints, tasks_folder):
    names = ["words", "words_perplexity"]
    evaluation = evaluate_tasks(two_checkpoints, names, tasks_folder=tasks_folder, batch_size=4, device="cpu")
    expected = {
        (checkpoint, *key): value
        for checkpoint in two_checkpoints
        for key, value in scores(harness(checkpoint, tasks_folder, names)).items()
    }
    assert values(evaluation) == pytest.approx(expected, rel=1e-4)
    assert {row.max_length for row in evaluation.results} == {LONGEST}
    samples = {row.task: row.samples for row in evaluation.results}
    assert samples == {**dict.fromkeys(TASKS, len(DOCUMENTS)), "words": None}


def test_limit_fewshot_and_length_reach_the_harness(two_checkpoints, tasks_folder):
    names = ["words_choice", "words_perplexity"]
    options = {"limit": 4, "num_fewshot": 2}
    evaluation = evaluate_tasks(
        two_checkpoints[:1], names, tasks_folder=tasks_folder, max_length=100, device="cpu", **options
    )
    checkpoint = two_checkpoints[0]
    long, short = (
        scores(harness(checkpoint, tasks_folder, names, model_args={"max_length": length}, **options))
        for length in (100, LONGEST)
    )
    assert values(evaluation) == pytest.approx({(checkpoint, *key): value for key, value in long.items()}, rel=1e-4)
    assert long != pytest.approx(short, rel=1e-2)
    assert {(row.samples, row.num_fewshot, row.max_length) for row in evaluation.results} == {(4, 2, 100)}


def test_an_interrupted_run_is_resumed_without_measuring_twice(two_checkpoints, tasks_folder, tmp_path, monkeypatch):
    simple_evaluate, calls = lm_eval.simple_evaluate, []

    def interrupted_at(stop):
        def measure(model, *, tasks, **kwargs):
            if len(calls) == stop:
                raise KeyboardInterrupt
            calls.append(tasks)
            return simple_evaluate(model, tasks=tasks, **kwargs)

        monkeypatch.setattr(lm_eval, "simple_evaluate", measure)

    output = tmp_path / "tasks.json"
    names = ["words_choice", "words_generation"]
    options = {"tasks_folder": tasks_folder, "device": "cpu", "output": output}
    interrupted_at(3)
    with pytest.raises(KeyboardInterrupt):
        evaluate_tasks(two_checkpoints, names, **options)
    assert len({(row.model, row.request) for row in TaskEvaluation.load(output).results}) == 3
    with pytest.raises(FileExistsError, match="--resume completes it"):
        evaluate_tasks(two_checkpoints, names, **options)
    with pytest.raises(ValueError, match="resume: .* holds results with other settings"):
        evaluate_tasks(two_checkpoints, names, resume=True, limit=2, **options)
    interrupted_at(4)
    resumed = evaluate_tasks(two_checkpoints, names, resume=True, **options)
    assert calls == [[name] for name in (*names, *names)]
    assert TaskEvaluation.load(output) == resumed
    monkeypatch.setattr(lm_eval, "simple_evaluate", simple_evaluate)
    assert values(resumed) == values(evaluate_tasks(two_checkpoints, names, **{**options, "output": None}))


def test_the_command_prints_and_writes_a_column_for_each_model(
    two_checkpoints, tasks_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = ["evaluate", *two_checkpoints, "--tasks", "words_ch*,words_perplexity", "--tasks-folder", tasks_folder]
    assert main([*arguments, "--limit", "3", "--batch-size", "2", "--device", "cpu", "--output", "t.json"]) == 0
    evaluation = TaskEvaluation.load("t.json")
    assert evaluation.settings["limit"] == 3
    printed = capsys.readouterr().out
    assert task_table(evaluation.results) in printed
    lines = Path("t.md").read_text().splitlines()
    assert lines[2] == "| task | metric | few-shot | llama (BiPE-ALiBi) | gpt_neox (BiPE-ALiBi) |"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert [row[:2] for row in rows] == [
        ["words_choice", "acc"],
        ["words_choice", "acc_norm"],
        ["words_perplexity", "word_perplexity"],
    ]
    accuracy = [row for row in evaluation.results if row.metric == "acc"]
    assert rows[0][3:] == [f"{row.value:.4f} ± {row.stderr:.4f}" for row in accuracy]


def test_a_chat_template_and_a_system_turn_reach_the_harness(two_checkpoints, tasks_folder, tmp_path):
    folder = shutil.copytree(two_checkpoints[0], tmp_path / "chat")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role[0] }} {{ m.content }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    asked = {"num_fewshot": 1, "limit": 3, "apply_chat_template": True, "fewshot_as_multiturn": True}
    asked["system_instruction"] = "a b c"
    output = tmp_path / "tasks.json"
    evaluation = evaluate_tasks(
        [folder], ["words_choice"], tasks_folder=tasks_folder, device="cpu", output=output, **asked
    )
    expected = scores(harness(str(folder), tasks_folder, ["words_choice"], **asked))
    assert values(evaluation) == pytest.approx({(str(folder), *key): value for key, value in expected.items()})
    plain = scores(harness(str(folder), tasks_folder, ["words_choice"], num_fewshot=1, limit=3))
    assert expected != pytest.approx(plain, rel=1e-3)
    del asked["system_instruction"]
    with pytest.raises(ValueError, match="results with other settings"):
        evaluate_tasks(
            [folder], ["words_choice"], tasks_folder=tasks_folder, device="cpu", output=output, resume=True, **asked
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "words_choice", "--apply-chat-template"], "apply_chat_template: the tokenizer of"),
        (["--tasks", "words_choice", "--fewshot-as-multiturn"], "fewshot_as_multiturn: turns need apply_chat"),
        (
            ["--tasks", "bipe_passkey", "--system-instruction", "x", "--metadata", '{"lengths": [99]}'],
            "system_instruction: bipe_passkey has no use",
        ),
        (["--lengths", "8", "--apply-chat-template"], "--apply-chat-template: only --tasks takes this"),
        (["--tasks", "words_chioce"], "there is no task 'words_chioce' in the lm-evaluation-harness or in"),
        (["--tasks", "words_chioce"], "did you mean words_choice"),
        (["--tasks", "zzzzzz"], "`lm_eval ls tasks` lists them"),
        (["--tasks", "words_choice", "--limit", "0"], "limit: 0 is less than 1"),
        (["--tasks", "words_choice", "--num-fewshot", "-1"], "num_fewshot: -1 is less than 0"),
        (["--tasks", "words_choice", "--batch-size", "0"], "batch_size: 0 is less than 1"),
        (["--tasks", "words_choice", "--dtype", "int8"], "dtype: 'int8' is none of auto"),
        (["--tasks", "words_choice", "--stride", "3", "--split", "train"], "--stride, --split: only --lengths takes"),
        (["--lengths", "8", "--limit", "3"], "--tasks-folder, --limit: only --tasks takes this"),
        (
            ["--tasks", "words_generation", "--max-length", "12"],
            "max_length: words_generation generates up to 12 tokens, which leaves no room for its prompt in the 12",
        ),
        (["--tasks", "broken"], "tasks: broken cannot be loaded"),
        (["--tasks", "unsafe"], "tasks: unsafe runs code that a model writes"),
    ],
)
def test_bad_input_is_one_line_before_a_model_is_loaded(
    two_checkpoints, tasks_folder, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Checkpoint, "load", lambda *args: pytest.fail("a model was loaded"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    for file in Path(tasks_folder).glob("*.yaml"):
        (folder / file.name).write_text(file.read_text())
    choice = (folder / "choice.yaml").read_text()
    for name, old, new in (
        ("broken", "documents.jsonl", "missing.jsonl"),
        ("unsafe", "doc_to", "unsafe_code: true\ndoc_to"),
    ):
        (folder / f"{name}.yaml").write_text(choice.replace("words_choice", name).replace(old, new, 1))
    assert main(["evaluate", two_checkpoints[0], *arguments, "--tasks-folder", str(folder)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("bipe-hf: error: ")
    assert message in line
    assert not Path("evaluation.json").exists()


def test_a_missing_folder_of_tasks_is_named(two_checkpoints):
    with pytest.raises(ValueError, match="tasks_folder: nowhere is not a folder"):
        evaluate_tasks(two_checkpoints, ["words_choice"], tasks_folder="nowhere")


def test_a_missing_harness_is_named_with_how_to_install_it(two_checkpoints, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install '\.\[lm-eval\]'"):
        evaluate_tasks(two_checkpoints, ["words_choice"])


def test_a_tokenizer_without_an_end_of_text_token_is_named(tiny_model, tasks_folder, tmp_path):
    folder = save(tiny_model("llama"), tmp_path / "model")
    settings = json.loads(Path(folder, "tokenizer_config.json").read_text())
    del settings["eos_token"]
    Path(folder, "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="tokenizer has no end-of-text token"):
        evaluate_tasks([folder], ["words_choice"], tasks_folder=tasks_folder)
