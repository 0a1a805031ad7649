"""Tasks made by a generator: what it makes, what is learnt of it, what is measured. `bipe_hf.lab.tasks.synthetic`."""

import ast
import hashlib
import json
import re
import shutil
from collections import Counter
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random

import lm_eval.tasks
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interruption import interrupt
from lm_eval.tasks import TaskManager
from paths import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationMixin, LogitsProcessor, LogitsProcessorList

from bipe_hf import BipeTokenizer
from bipe_hf.commands import main
from bipe_hf.lab.common.checkpoints import Checkpoint
from bipe_hf.lab.tasks.evaluation import task_table
from bipe_hf.lab.tasks.run import evaluate_tasks
from bipe_hf.lab.tasks.synthetic import SyntheticSettings, accuracy, measure, train
from bipe_hf.lab.tasks.synthetic.accuracy import Score, score
from bipe_hf.lab.tasks.synthetic.arithmetic import Arithmetic
from bipe_hf.lab.tasks.synthetic.chain import Chain
from bipe_hf.lab.tasks.synthetic.examples import Examples, TokenizedExamples, answer_text, is_held_out, prompt
from bipe_hf.lab.tasks.synthetic.generator import Example
from bipe_hf.lab.tasks.synthetic.task import GeneratedTask, documents
from bipe_hf.lab.tasks.synthetic.tasks import TASKS
from bipe_hf.lab.tasks.synthetic.tokenizer import make_tokenizer


pytestmark = pytest.mark.usefixtures("no_progress_bars")

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
seeds = st.integers(0, 2**32)
operators = st.integers(1, 8)

HAND_WORKED = {
    Arithmetic: Example("( 7 + 5 ) * 3", ("1 * 3", "3")),
    Chain: Example("5 ; + 3 ; - 7 ; + 2", ("5", "+ 3 8", "- 7 1", "+ 2 3")),
}


# What is made


def value(text: str) -> int:
    """Modulo 11, by Python's own reading of the expression as one over the rational numbers."""
    exact = eval(re.sub(r"\d+", r"Fraction(\g<0>)", text), {"Fraction": Fraction})
    assert exact.denominator % 11, f"{text} divides by 0"
    return exact.numerator * pow(exact.denominator, 9, 11) % 11  # Fermat: x^10 = 1


def tree(text: str) -> str:
    return ast.dump(ast.parse(text.strip(), mode="eval"))


def count_operators(text: str) -> int:
    return len(re.findall(r"[-+*/]", text))


@given(seeds, operators)
def test_every_step_has_the_value_of_the_expression(seed, operators):
    question, steps = Arithmetic.draw(Random(seed), operators)
    assert {value(step) for step in steps} == {value(question)}


@given(seeds, operators)
def test_every_step_does_one_operation_and_leaves_the_rest_as_it_is(seed, operators):
    question, steps = Arithmetic.draw(Random(seed), operators)
    assert [count_operators(step) for step in (question, *steps)] == list(range(operators, -1, -1))
    assert re.fullmatch(r"\d+", steps[-1])
    for before, after in pairwise((question, *steps)):
        done = re.finditer(r"(?=(\( )?\b(\d+ [-+*/] \d+)(?(1) \)))", before)
        places = [(match.start(), match.end(2) + 2 * (match[1] is not None), match[2]) for match in done]
        assert any(after == f"{before[:at]}{value(text)}{before[end:]}" for at, end, text in places if divides(text))


def divides(text: str) -> bool:
    """Whether an operation can be done: it is one of two numbers that is part of no `3 / 0`."""
    return not text.endswith("/ 0")


@pytest.mark.parametrize(
    ("expression", "steps"),
    [
        (("*", ("+", 7, 5), 3), ["( 7 + 5 ) * 3", "1 * 3", "3"]),
        (("-", 9, ("*", 4, 7)), ["9 - 4 * 7", "9 - 6", "3"]),
        (("*", ("+", 1, 2), ("-", 3, 4)), ["( 1 + 2 ) * ( 3 - 4 )", "3 * ( 3 - 4 )", "3 * 10", "8"]),
        (("-", ("-", 1, 2), ("-", 3, 4)), ["1 - 2 - ( 3 - 4 )", "10 - ( 3 - 4 )", "10 - 10", "0"]),
        (("/", 1, ("/", 6, 2)), ["1 / ( 6 / 2 )", "1 / 3", "4"]),
    ],
)
def test_the_leftmost_operation_of_those_that_can_be_done_is_done_first(monkeypatch, expression, steps):
    monkeypatch.setattr("bipe_hf.lab.tasks.synthetic.arithmetic._draw", lambda random, operators: (expression, None))
    question, rest = Arithmetic.draw(Random(0), 0)
    assert [question, *rest] == steps


@given(seeds, operators)
def test_brackets_stand_only_where_the_expression_would_be_another_without(seed, operators):
    question = Arithmetic.draw(Random(seed), operators).question
    opened = []
    for place, sign in enumerate(question):
        if sign == "(":
            opened.append(place)
        if sign == ")":
            start = opened.pop()
            without = question[:start] + question[start + 1 : place] + question[place + 1 :]
            assert tree(without) != tree(question)


def test_every_shape_of_an_expression_is_as_likely():
    """There are five binary trees with three operators."""

    def shape(node) -> str:
        return f"({shape(node.left)}{shape(node.right)})" if isinstance(node, ast.BinOp) else "n"

    random = Random(0)
    count = Counter(shape(ast.parse(Arithmetic.draw(random, 3).question, mode="eval").body) for _ in range(5000))
    assert len(count) == 5
    assert all(abs(number - 1000) < 4 * (5000 * 0.2 * 0.8) ** 0.5 for number in count.values())


def test_every_operator_is_as_likely_but_for_division_by_0():
    random = Random(0)
    drawn = [Arithmetic.draw(random, 1).question.split() for _ in range(12_000)]
    by_zero = Counter(sign for _, sign, right in drawn if right == "0")
    others = Counter(sign for _, sign, right in drawn if right != "0")
    for count, signs in ((by_zero, "+-*"), (others, "+-*/")):
        total, share = sum(count.values()), 1 / len(signs)
        assert set(count) == set(signs)
        assert all(abs(each - total * share) < 4 * (total * share * (1 - share)) ** 0.5 for each in count.values())


@given(seeds, operators)
def test_a_chain_is_answered_by_its_operations_with_the_running_totals(seed, operators):
    question, steps = Chain.draw(Random(seed), operators)
    parts = question.split(" ; ")
    assert len(parts) == operators + 1
    assert all(re.fullmatch(r"[-+] \d+", part) for part in parts[1:])
    totals = [value(" ".join(parts[: at + 1])) for at in range(1, len(parts))]
    assert steps == (parts[0], *(f"{part} {total}" for part, total in zip(parts[1:], totals, strict=True)))


@every_task
@given(seed=seeds, operators=operators)
def test_no_example_is_longer_than_stated(task, seed, operators):
    example = task.draw(Random(seed), operators)
    assert len(f"{prompt(example)} {answer_text(task, example)} <|endoftext|>".split()) <= task.longest(operators)


@pytest.mark.parametrize(("task", "length"), [(Arithmetic, 3 + 1 + 1 + 1), (Chain, 2 + 3 + 2 + 4)])
def test_the_longest_example_is_stated_exactly(task, length):
    """`1 + 2 = 3 <end>` and `1 ; + 2 = 1 ; + 2 3 <end>`."""
    assert task.longest(1) == length


# What is held out


@every_task
def test_no_question_to_train_on_is_one_to_measure_on(task):
    """Of the few questions with one operator each is asked several times: every one is on one side only."""
    train_questions, test_questions = (
        {example.question for seed in (0, 1) for example in Examples(task, [1], 2000, held_out=held_out, seed=seed)}
        for held_out in (False, True)
    )
    longer = Examples(task, [1, 2, 3], 2000, held_out=False, seed=0)
    assert test_questions.isdisjoint(step.split(" = ")[0] for example in longer for step in example.steps)
    assert train_questions.isdisjoint(test_questions)
    total = {Arithmetic: 11 * 11 * 3 + 11 * 10, Chain: 11 * 2 * 11}[task]
    assert len(train_questions | test_questions) == total
    assert len(test_questions) / total == pytest.approx(1 / 8, abs=0.04)


@every_task
def test_examples_depend_on_seed_and_number_alone(task):
    examples, again, others = (Examples(task, [2, 3], 50, held_out=False, seed=seed) for seed in (5, 5, 6))
    assert [examples[at] for at in reversed(range(50))] == list(again)[::-1]
    assert sum(ours == theirs for ours, theirs in zip(examples, others, strict=True)) < 3
    with pytest.raises(IndexError):
        examples[50]


@pytest.mark.parametrize(("task", "hashed"), [("arithmetic", "605c2bc39f14b5c0"), ("chain", "ec6db9eba32a82e7")])
def test_the_questions_of_a_seed_are_those_of_the_committed_results(task, hashed):
    """Hashed by the code that made them."""
    made = documents(task, [1, 2, 3, 4], tokenizer=make_tokenizer(TASKS[task]))["test"]
    assert hashlib.sha256("\n".join(made["question"]).encode()).hexdigest()[:16] == hashed
    assert len(made) == 4 * 500


@every_task
def test_every_size_is_as_frequent(task):
    examples = Examples(task, range(1, 5), 4000, held_out=False, seed=0)
    count = Counter(count_operators(example.question) for example in examples)
    assert set(count) == {1, 2, 3, 4}
    assert all(abs(each - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5 for each in count.values())


# Tokens, labels, segments


def hand_worked(task) -> Examples:
    """One example, always the same one, whatever is held out of its steps."""
    fixed = type(
        "Fixed",
        (task,),
        {
            "draw": staticmethod(lambda random, operators: HAND_WORKED[task]),
            "questions": staticmethod(lambda example: (example.question,)),
        },
    )
    return Examples(fixed, [2], 1, held_out=is_held_out(HAND_WORKED[task].question), seed=0)


@pytest.mark.parametrize(
    ("task", "question", "answer"),
    [(Arithmetic, "( 7 + 5 ) * 3 =", "1 * 3 = 3"), (Chain, "5 ; + 3 ; - 7 ; + 2 =", "5 ; + 3 8 ; - 7 1 ; + 2 3")],
)
def test_the_loss_is_on_the_answer_and_its_end_alone(task, question, answer):
    tokenizer = make_tokenizer(task)
    (example,) = TokenizedExamples(hand_worked(task), tokenizer)
    assert tokenizer.convert_ids_to_tokens(example["input_ids"]) == [*f"{question} {answer}".split(), "<|endoftext|>"]
    unlabelled = len(question.split())
    assert example["labels"] == [-100] * unlabelled + example["input_ids"][unlabelled:]


@pytest.mark.parametrize(
    ("task", "text", "segments"),
    [
        (Arithmetic, "( 7 + 5 ) * 3 = 1 * 3 = 3", [8, 4, 1]),
        (Chain, "5 ; + 3 ; - 7 ; + 2 = 5 ; + 3 8 ; - 7 1 ; + 2 3", [2, 3, 3, 3, 2, 4, 4, 3]),
    ],
)
def test_each_expression_and_each_operation_is_a_segment(task, text, segments):
    tokenizer = BipeTokenizer.from_tokenizer(make_tokenizer(task), list(task.segment_ends))
    expected = [segment for segment, length in enumerate(segments) for _ in range(length)]
    assert tokenizer(text)["segment_ids"] == expected


@every_task
def test_each_number_and_each_sign_is_one_token(task):
    tokenizer = make_tokenizer(task)
    example = task.draw(Random(0), 6)
    text = f"{prompt(example)} {answer_text(task, example)}"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.split())
    assert tokenizer.decode(ids) == text
    numbers = tokenizer(" ".join(map(str, range(11))))["input_ids"]
    assert len(set(numbers) - {tokenizer.eos_token_id, tokenizer.pad_token_id}) == 11


@every_task
def test_what_is_no_token_of_the_task_is_refused(task):
    with pytest.raises(Exception, match="UNK"):
        make_tokenizer(task)("1 + 11 =")


# A whole run


@pytest.fixture(scope="module")
def base():
    """A model of some 10,000 parameters and 8 steps."""
    return {
        "task": "arithmetic",
        "max_operators": 3,
        "test_operators": [1, 4],
        "test_samples": 6,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_segment_length": 32,
        "max_steps": 8,
        "per_device_train_batch_size": 6,
        "gradient_accumulation_steps": 2,
        "per_device_eval_batch_size": 1000,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 2,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    }


@pytest.fixture
def settings(base, tmp_path):
    return base | {"output_dir": str(tmp_path / "run")}


@pytest.fixture(
    scope="module", params=[("bipe_llama", "alibi"), ("bipe_gpt_neox", "rope")], ids=lambda param: param[0]
)
def finished_run(request, base, tmp_path_factory) -> Path:
    """A run of each family."""
    model_type, inter_encoding = request.param
    folder = tmp_path_factory.mktemp(model_type) / "run"
    train(base | {"model_type": model_type, "inter_encoding": inter_encoding, "output_dir": str(folder)})
    return folder


@pytest.fixture(scope="module")
def chain_run(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chain") / "run"
    train(base | {"task": "chain", "output_dir": str(folder)})
    return folder


def test_output_folder_loads_with_the_auto_classes(finished_run):
    tokenizer = AutoTokenizer.from_pretrained(finished_run)
    model = AutoModelForCausalLM.from_pretrained(finished_run)
    assert isinstance(tokenizer, BipeTokenizer)
    assert tokenizer.convert_ids_to_tokens(tokenizer.separator_token_ids) == ["="]
    config = model.config
    assert config.separator_token_ids == tokenizer.separator_token_ids
    assert (config.vocab_size, config.eos_token_id, config.pad_token_id) == (
        len(tokenizer),
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    assert config.max_position_embeddings == Arithmetic.longest(3)


def test_a_chain_ends_its_segments_at_both_separators(chain_run):
    tokenizer = AutoTokenizer.from_pretrained(chain_run)
    assert set(tokenizer.convert_ids_to_tokens(tokenizer.separator_token_ids)) == {";", "="}


def test_a_baseline_has_a_plain_tokenizer(settings):
    train(settings | {"segmentation": "tokens", "intra_encoding": "none", "max_steps": 1})
    assert not isinstance(AutoTokenizer.from_pretrained(settings["output_dir"]), BipeTokenizer)


def test_record_tells_what_happened(finished_run, base):
    result = json.loads((finished_run / "synthetic.json").read_text())
    assert (result["task"], result["max_operators"], result["steps"]) == ("arithmetic", 3, 8)
    assert result["examples_seen"] == 8 * 12
    assert base.items() <= result["config"].items()
    rows = result["accuracy"]
    assert [(row["size"], row["samples"]) for row in rows] == [(1, 6), (4, 6)]
    card = (finished_run / "README.md").read_text(encoding="utf-8")
    assert all(f"| {row['size']} | {row['accuracy']:.4f} | {row['steps_correct']:.4f} | 6 |" in card for row in rows)
    assert rows == measure(finished_run, [1, 4], samples=6, batch_size=2)

    model = AutoModelForCausalLM.from_pretrained(finished_run)
    held_out = TokenizedExamples(
        Examples(Arithmetic, range(1, 4), 1000, held_out=True, seed=0), AutoTokenizer.from_pretrained(finished_run)
    )
    losses = []
    with torch.no_grad():
        for example in held_out:
            ids, labels = torch.tensor(example["input_ids"]), torch.tensor(example["labels"])
            logits = model(input_ids=ids[None]).logits[0, :-1]
            losses.append(torch.nn.functional.cross_entropy(logits, labels[1:], reduction="none")[labels[1:] != -100])
    assert result["eval_loss"] == pytest.approx(torch.cat(losses).mean().item(), abs=1e-5)
    assert result["tokens_seen"] > 8 * 12 * 6


def test_a_run_learns(settings):
    result = train(settings | {"max_operators": 1, "test_operators": [1], "max_steps": 60})
    tokens = 13 + 7
    assert (
        result["eval_loss"] < torch.log(torch.tensor(tokens)).item() / 2
    )  # that a text ends, and numbers from 0 to 10


def test_each_training_example_is_seen_once_and_none_is_held_out(settings, monkeypatch):
    asked = {True: [], False: []}
    held_out_of = Examples.__getitem__

    def recording(self, index):
        example = held_out_of(self, index)
        asked[self.held_out].append((index, example))
        return example

    monkeypatch.setattr(Examples, "__getitem__", recording)
    train(settings)
    trained = [index for index, _ in asked[False]]
    assert sorted(trained) == list(range(8 * 12))
    questions, measured = ({example.question for _, example in asked[held_out]} for held_out in (False, True))
    assert questions.isdisjoint(measured)
    assert {count_operators(example.question) for _, example in asked[False]} == {1, 2, 3}


def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(settings, finished_run, capsys):
    config = json.loads((finished_run / "config.json").read_text())
    settings |= {key: config[key] for key in ("model_type", "inter_encoding")}
    interrupt(train, settings, step=5)
    result = train(settings)
    assert result["resumed_from"] == "checkpoint-4"
    assert f"resuming {settings['output_dir']} from checkpoint-4" in capsys.readouterr().out
    whole = json.loads((finished_run / "synthetic.json").read_text())
    for key in ("steps", "examples_seen", "tokens_seen", "eval_loss", "accuracy", "train_loss"):
        assert result[key] == whole[key]
    ours, theirs = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (settings["output_dir"], finished_run)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_changed_task_is_not_resumed(settings):
    interrupt(train, settings, step=3)
    with pytest.raises(ValueError, match=r"max_operators \(there 3, now 2\)"):
        train(settings | {"max_operators": 2})


def test_what_is_measured_may_change_on_resuming(settings):
    interrupt(train, settings, step=3)
    result = train(settings | {"test_operators": [2], "test_samples": 3})
    assert result["resumed_from"] == "checkpoint-2"
    assert [(row["size"], row["samples"]) for row in result["accuracy"]] == [(2, 3)]


def test_finished_run_is_refused_and_overwritten_only_when_told(settings, chain_run):
    shutil.copytree(chain_run, settings["output_dir"])
    with pytest.raises(FileExistsError, match=r"finished run \(synthetic.json\)"):
        train(settings)
    assert train(settings | {"max_steps": 1}, overwrite=True)["task"] == "arithmetic"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": None}, "task: None given, one of arithmetic, chain is needed"),
        ({"task": "arithmetics"}, "did you mean arithmetic?"),
        ({"max_operators": None}, "give max_operators"),
        ({"max_operators": 0}, "max_operators: 0 given, at least 1 is needed"),
        ({"task": "chain", "max_operators": -1, "encoding": "rope"}, "max_operators: -1 given, at least 1 is needed"),
        ({"test_samples": 0}, "test_samples: 0 given, at least 1 is needed"),
        ({"test_operators": [0, 1]}, "test_operators: 0 given, an example has at least 1 operator"),
        ({"test_operators": [2, 1]}, "test_operators: 1 comes after 2"),
        ({"test_operators": [2, 2]}, "test_operators: 2 comes after 2"),
        ({"test_operators": []}, "test_operators: .* is no list"),
        ({"test_operators": "1,2"}, "test_operators: '1,2' is no list"),
        ({"test_operators": "[1.5]"}, r"test_operators: \[1.5\] is no list"),
        ({"max_steps": -1}, "give max_steps"),
        ({"max_steps": 0}, "no training step"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size: 0 given"),
        ({"hidden_size": 0}, "hidden_size: 0 given"),
        ({"model_type": "bipe_lama"}, "did you mean bipe_llama?"),
        ({"alibi_slope_scale": "measured"}, "alibi_slope_scale: give a number"),
        ({"initial_model": "x"}, "initial_model cannot be set"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint cannot be set"),
        ({"hub_token": "secret"}, "hub_token cannot be set"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_settings_are_refused_before_anything_is_written(settings, changes, message):
    with pytest.raises(ValueError, match=message):
        train(settings | changes)
    assert not Path(settings["output_dir"]).exists()


STOCK = {"model_type": "gpt2", "intermediate_size": None, "max_segment_length": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"test_operators": [1, 4]},
            r"test_operators: 4 operators take up to 32 positions, a model of type gpt2 .* 25 has none",
        ),
        (
            {"max_position_embeddings": 10},
            r"max_operators: 3 operators take up to 25 positions, a model of type gpt2 .* 10 has none",
        ),
    ],
)
def test_sizes_that_the_position_table_does_not_reach_are_refused_before_training(settings, changes, message):
    """Of a chain with m operators: 3 m + 2 tokens up to `=`, 4 m + 2 behind it."""
    with pytest.raises(ValueError, match=message):
        train(settings | STOCK | {"task": "chain"} | changes)
    assert not Path(settings["output_dir"]).exists()


def test_a_position_table_of_ones_own_size_is_measured_up_to_its_end(settings):
    longer = {"task": "chain", "test_operators": [4], "max_position_embeddings": 32, "max_steps": 1}
    train(settings | STOCK | longer)
    assert len(measure(settings["output_dir"], [4], samples=2)) == 1
    with pytest.raises(
        ValueError, match="sizes: 5 operators take up to 39 positions, a model of type gpt2 .* 32 has none"
    ):
        measure(settings["output_dir"], [5], samples=2)


@pytest.mark.parametrize(
    "fields",
    [
        {"segmentation": "document", "intra_encoding": "learned"},
        {"segmentation": "document", "intra_encoding": "sinusoidal"},
        {"max_segment_length": 2},
        {"model_type": "llama", "max_segment_length": None},
    ],
    ids=lambda fields: next(reversed(fields)),
)
def test_models_that_go_on_behind_their_table_are_measured_there(settings, fields):
    (row,) = train(settings | {"max_steps": 1, "test_operators": [9], "test_samples": 2} | fields)["accuracy"]
    assert row["size"] == 9


def test_the_command_trains_measures_and_says_what_came_out(settings, tmp_path, capsys):
    config = tmp_path / "chain.yaml"
    given = settings | {"task": "chain", "max_steps": 1, "learning_rate": 0.01}
    config.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in given.items()))
    assert main(["synthetic", str(config), "--test_operators", "[2,3]"]) == 0
    output = capsys.readouterr().out
    for row in json.loads(Path(settings["output_dir"], "synthetic.json").read_text())["accuracy"]:
        assert f"{row['size']} operators: {row['accuracy']:.1%} right" in output
    assert main(["synthetic", str(config)]) == 2
    assert "bipe-hf: error: output_dir" in capsys.readouterr().err


@pytest.mark.parametrize("task", TASKS)
def test_a_task_runs_with_its_configuration(task, tmp_path, capsys):
    """With fewer steps; the model and the examples are as many as its comments say."""
    config = ROOT / "configs" / f"synthetic_{task}.yaml"
    folder = tmp_path / "run"
    here = {"max_steps": 1, "test_operators": "[1,9]", "test_samples": 2, "report_to": "none", "output_dir": folder}
    assert main(["synthetic", str(config), *(f"--{key}={value}" for key, value in here.items())]) == 0
    result = json.loads((folder / "synthetic.json").read_text())
    assert result["task"] == task
    text, settings = config.read_text(), SyntheticSettings.read(config, []).given()
    assert f"# parameters: {result['parameters']:,}\n" in text
    examples = settings["max_steps"] * settings["per_device_train_batch_size"]
    assert f"# examples: {examples:,} ({settings['max_steps']:,} steps of" in text


# Accuracy


END = "<end>"


@pytest.mark.parametrize(
    ("task", "written", "expected"),
    [
        (Arithmetic, "1 * 3 = 3 <end>", Score(True, 2, 2)),
        (Arithmetic, "1 * 3 = 3 <end> 4 = 4", Score(True, 2, 2)),
        (Arithmetic, "2 * 3 = 3 <end>", Score(True, 1, 2)),
        (Arithmetic, "3 <end>", Score(True, 0, 2)),
        (Arithmetic, "1 * 3 = 4 <end>", Score(False, 1, 2)),
        (Arithmetic, "1 * 3 = 3 = 3", Score(False, 2, 2)),
        (Arithmetic, "1 * 3 = 3 3 <end>", Score(False, 1, 2)),
        (Arithmetic, "1 * 3 = <end>", Score(False, 1, 2)),
        (Arithmetic, "<end>", Score(False, 0, 2)),
        (Arithmetic, "13 <end>", Score(False, 0, 2)),
        (Chain, "5 ; + 3 8 ; - 7 1 ; + 2 3 <end>", Score(True, 4, 4)),
        (Chain, "5 ; + 3 8 ; - 7 2 ; + 2 3 <end>", Score(True, 3, 4)),
        (Chain, "5 ; + 3 8 ; - 7 1 ; + 1 3 <end>", Score(False, 3, 4)),
        (Chain, "5 ; + 3 8 ; - 7 1 <end>", Score(False, 3, 4)),
        (Chain, "5 = + 3 8 = - 7 1 = + 2 3 <end>", Score(False, 0, 4)),
    ],
)
def test_an_answer_is_right_that_ends_with_the_right_step(task, written, expected):
    assert score(written.split(), task, HAND_WORKED[task], END) == expected


class Dictation(LogitsProcessor):
    """Makes a model write given answers: a dictionary from prompts to answers."""

    def __init__(self, answers: dict[str, str], tokenizer) -> None:
        self.answers = {
            tuple(tokenizer(prompt)["input_ids"]): [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]
            for prompt, answer in answers.items()
        }
        self.padding = tokenizer.pad_token_id
        self.prompt_length = None

    def __call__(self, input_ids, scores):
        self.prompt_length = self.prompt_length or input_ids.shape[1]
        dictated = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(input_ids.tolist()):
            answer = self.answers[tuple(token for token in ids[: self.prompt_length] if token != self.padding)]
            written = len(ids) - self.prompt_length
            dictated[row, answer[min(written, len(answer) - 1)]] = 0
        return dictated


@pytest.fixture
def dictate(monkeypatch):
    """Whatever model `generate` is called on, it writes what `answer(number, example)` says."""

    def start(task, folder, answer, size, samples):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        examples = Examples(task, [size], samples, held_out=True, seed=0)
        answers = {prompt(example): answer(number, example) for number, example in enumerate(examples)}
        assert len(answers) == samples  # no question comes twice
        generate = GenerationMixin.generate

        def dictated(self, *args, **kwargs):
            return generate(
                self, *args, logits_processor=LogitsProcessorList([Dictation(answers, tokenizer)]), **kwargs
            )

        monkeypatch.setattr(GenerationMixin, "generate", dictated)

    return start


def test_a_model_that_knows_everything_is_always_right(finished_run, dictate):
    dictate(Arithmetic, finished_run, lambda number, example: " = ".join(example.steps), 4, 20)
    (row,) = measure(finished_run, [4], samples=20, batch_size=8)
    assert row == {"size": 4, "accuracy": 1.0, "steps_correct": 1.0, "samples": 20}


def test_a_model_that_errs_in_every_fifth_answer_is_right_in_the_others(finished_run, dictate):
    """Its last step is wrong there; in every other answer the first step is, which the result survives."""

    def erring(number, example):
        steps = list(example.steps)
        if number % 5 == 0:
            steps[-1] = str((int(steps[-1]) + 1) % 11)
        if number % 2 == 0:
            steps[0] = "1"
        return " = ".join(steps)

    dictate(Arithmetic, finished_run, erring, 4, 20)
    (row,) = measure(finished_run, [4], samples=20, batch_size=8)
    assert row == {"size": 4, "accuracy": 16 / 20, "steps_correct": (80 - 4 - 10) / 80, "samples": 20}


def test_a_chain_that_stops_one_step_early_is_wrong_but_for_what_it_has(chain_run, dictate):
    dictate(Chain, chain_run, lambda number, example: " ; ".join(example.steps[:-1]), 3, 20)
    (row,) = measure(chain_run, [3], samples=20)
    assert row == {"size": 3, "accuracy": 0.0, "steps_correct": 0.75, "samples": 20}


def by_operators(folder, task, sizes, **options):
    """Rows as those of [`measure`], of what the harness finds on the task of that name."""
    metadata = {"sizes": sizes, "samples": 20}
    evaluation = evaluate_tasks([folder], [f"bipe_{task}"], metadata=metadata, device="cpu", **options)
    rows = {}
    for row in evaluation.results:
        size = row.part["operators"]
        rows.setdefault(size, {"size": size, "samples": row.samples})[row.metric] = row.value
    return list(rows.values())


def test_the_harness_counts_the_same_right_answers_and_steps(finished_run, dictate):
    def erring(number, example):
        steps = list(example.steps)
        if number % 5 == 0:
            steps[-1] = str((int(steps[-1]) + 1) % 11)
        if number % 2 == 0:
            steps[0] = "1"
        return " = ".join(steps) + (" =" if number == 1 else "")

    dictate(Arithmetic, finished_run, erring, 4, 20)
    (row,) = by_operators(finished_run, "arithmetic", [4])
    assert row == measure(finished_run, [4], samples=20)[0]
    assert row["accuracy"] == 15 / 20  # four have another last step, one has an empty one


@pytest.mark.parametrize("batch_size", [None, 3])
def test_the_harness_measures_chains_in_batches_of_any_size(chain_run, dictate, batch_size):
    dictate(Chain, chain_run, lambda number, example: " ; ".join(example.steps[: 1 + number % 4]), 3, 20)
    rows = by_operators(chain_run, "chain", [3], batch_size=batch_size)
    assert rows == measure(chain_run, [3], samples=20, batch_size=7)
    assert rows == [{"size": 3, "samples": 20, "accuracy": 5 / 20, "steps_correct": (1 + 2 + 3 + 4) / 16}]


def test_models_share_a_figure_and_a_size_can_be_added(chain_run, tmp_path, monkeypatch):
    other = shutil.copytree(chain_run, tmp_path / "other")
    drawn = []
    draw = GeneratedTask.draw
    monkeypatch.setattr(GeneratedTask, "draw", lambda self, results: drawn.append(draw(self, results)) or drawn[-1])
    options = {"metadata": {"sizes": [2], "samples": 5}, "device": "cpu", "output": tmp_path / "out.json"}
    before = evaluate_tasks([chain_run, other], ["bipe_chain"], **options).results
    options["metadata"] |= {"sizes": [1, 2]}
    evaluation = evaluate_tasks([chain_run, other], ["bipe_chain"], **options, resume=True)
    assert [row for row in evaluation.results if row.part == {"operators": 2}] == before
    assert len(evaluation.results) == 2 * len(before) == 8
    assert sorted(file.name for file in tmp_path.glob("out*")) == [
        "out-chain.png", "out-chain.svg", "out.json", "out.md"
    ]  # fmt: skip
    assert main(["plot", str(tmp_path / "out.json"), "--output", str(tmp_path / "again")]) == 0
    assert sorted(file.name for file in (tmp_path / "again").iterdir()) == ["out-chain.png", "out-chain.svg"]
    assert (tmp_path / "again/out-chain.svg").read_bytes() == (tmp_path / "out-chain.svg").read_bytes()
    (axes,) = drawn[-1].axes
    right = {
        (row.name, row.part["operators"]): 100 * row.value for row in evaluation.results if row.metric == "accuracy"
    }
    assert [line.get_xdata().tolist() for line in axes.get_lines()] == [[1, 2], [1, 2]]
    assert [list(line.get_ydata()) for line in axes.get_lines()] == [
        [right[name, size] for size in (1, 2)] for name in dict.fromkeys(name for name, _ in right)
    ]
    table = task_table(evaluation.results).splitlines()
    assert table[0].split() == ["model", "bipe_chain,", "by", "operators", "1", "2"]
    assert len(table) == 1 + 2 * 2
    with pytest.raises(ValueError, match="resume: .* holds results with other settings"):
        evaluate_tasks(
            [chain_run], ["bipe_chain"], **options | {"metadata": {"sizes": [1], "samples": 6}}, resume=True
        )


@pytest.mark.parametrize(
    ("task", "metadata", "message"),
    [
        ("bipe_arithmetic", {"sizes": [1]}, "its tokens are not those of bipe_arithmetic, which is for models of"),
        ("bipe_chain", {"sizes": [2, 1]}, "sizes: 1 comes after 2"),
        ("bipe_chain", {"sizes": [0]}, "sizes: 0 given, an example has at least 1 operator"),
        ("bipe_chain", {"sizes": 1}, "metadata of bipe_chain, sizes: 1 given, a list of whole numbers"),
        ("bipe_chain", {"sizes": [1], "samples": 0}, "samples: 0 given, at least 1 is needed"),
        ("bipe_chain", {}, "metadata of bipe_chain: sizes is missing"),
        (
            "bipe_chain",
            {"sizes": [1], "lengths": [9]},
            "metadata: unknown key 'lengths'; bipe_chain read samples, seed",
        ),
        ("chain", {"sizes": [1]}, "there is no task 'chain' in the lm-evaluation-harness; did you mean bipe_chain?"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_a_model_is_loaded(chain_run, task, metadata, message, monkeypatch):
    monkeypatch.setattr(Checkpoint, "load", None)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(TaskManager, include_defaults=False))
    with pytest.raises(ValueError, match=message):
        evaluate_tasks([chain_run], [task], metadata=metadata)


def test_answers_in_padded_batches_are_those_that_each_question_gets_alone(finished_run, monkeypatch):
    written = []

    def recording(tokens, *args):
        written.append(tokens)
        return score(tokens, *args)

    monkeypatch.setattr(accuracy, "score", recording)
    measure(finished_run, [3], samples=12, batch_size=5)
    tokenizer = AutoTokenizer.from_pretrained(finished_run)
    model = AutoModelForCausalLM.from_pretrained(finished_run)
    examples = list(Examples(Arithmetic, [3], 12, held_out=True, seed=0))
    assert len({len(example.question) for example in examples}) > 2
    for tokens, example in zip(written, examples, strict=True):
        ids = tokenizer(prompt(example), return_tensors="pt").input_ids
        with torch.no_grad():
            alone = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(tokens), do_sample=False
            )
        answer = tokenizer.convert_ids_to_tokens(alone[0, ids.shape[1] :])
        assert tokens[: len(answer)] == answer


@pytest.mark.parametrize(
    ("sizes", "changes", "message"),
    [
        ([], {}, r"sizes: \[\] is no list"),
        ([0], {}, "sizes: 0 given"),
        ([3, 2], {}, "sizes: 2 comes after 3"),
        ([2, 2], {}, "sizes: 2 comes after 2"),
        ([2], {"samples": 0}, "samples: 0 given"),
        ([2], {"batch_size": 0}, "batch_size: 0 given"),
        ([2], {"device": "abacus"}, "device: 'abacus' cannot be used"),
    ],
)
def test_bad_requests_are_refused_before_a_model_is_loaded(sizes, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        measure(tmp_path, sizes, **changes)


def test_a_folder_that_is_no_such_model_is_refused(tmp_path, chain_run):
    with pytest.raises(FileNotFoundError, match=r"no synthetic.yaml in this folder"):
        measure(tmp_path, [1])
    shutil.copy(chain_run / "synthetic.yaml", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no config.json in this folder"):
        measure(tmp_path, [1])
    (tmp_path / "synthetic.yaml").write_text("max_steps: 3\n")
    with pytest.raises(ValueError, match=r"synthetic.yaml is not what `bipe-hf synthetic` writes"):
        measure(tmp_path, [1])
    (tmp_path / "synthetic.yaml").write_text("task: [chain]\n")
    with pytest.raises(ValueError, match=r"task: \['chain'\] given, one of arithmetic, chain is needed"):
        measure(tmp_path, [1])
