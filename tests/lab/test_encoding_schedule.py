"""Encodings that move while a model is trained."""

import json
from pathlib import Path

import pytest
import torch
from interruption import interrupt
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerState, TrainingArguments
from words import write_corpus

from bipe_hf.lab.common.session import CurrentIntervals
from bipe_hf.lab.training import pretrain
from bipe_hf.lab.training.schedule import EncodingSchedule, values_at


SCHEDULE = {"token_share": [1.0, 0.2], "hybrid_alibi_scale": [0.01, 1.01]}
HYBRID = {
    "inter_encoding": "hybrid",
    "hybrid_max_period": 16.0,
    "hybrid_slow_pairs": "segments",
    "intra_encoding": "none",
}


pytestmark = pytest.mark.usefixtures("own_datasets_cache", "no_progress_bars")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), files=6)


@pytest.fixture
def settings(corpus, tmp_path):
    return HYBRID | {
        "data": str(corpus),
        "validation_fraction": 0.2,
        "vocab_size": 300,
        "train_length": 32,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 2,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "encoding_schedule": SCHEDULE,
        "encoding_schedule_steps": 4,
        "output_dir": str(tmp_path / "run"),
    }


def test_fields_move_in_a_straight_line_and_then_stay(settings, monkeypatch):
    seen = []

    def on_step_end(self, args, state, control, model, **kwargs):
        seen.append((model.config.token_share, model.config.hybrid_alibi_scale))

    monkeypatch.setattr(CurrentIntervals, "on_step_end", on_step_end, raising=False)
    pretrain(settings)
    expected = [(0.8, 0.26), (0.6, 0.51), (0.4, 0.76), (0.2, 1.01), (0.2, 1.01), (0.2, 1.01)]
    assert seen == [pytest.approx(values) for values in expected]
    config = AutoModelForCausalLM.from_pretrained(settings["output_dir"]).config
    assert (config.token_share, config.hybrid_alibi_scale) == pytest.approx((0.2, 1.01))


@pytest.mark.parametrize("step", [3, 6])
def test_a_resumed_run_is_the_one_that_was_not_interrupted(settings, tmp_path, step):
    """Step 6 is the last: what is left to do then is to save the model."""
    whole = settings | {"output_dir": str(tmp_path / "whole")}
    pretrain(whole)
    interrupt(pretrain, settings, step=step)
    pretrain(settings)
    folders = [Path(each["output_dir"]) for each in (settings, whole)]
    ours, theirs = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    assert configs[0] == configs[1]
    losses = [json.loads((folder / "training.json").read_text())["eval_loss"] for folder in folders]
    assert losses[0] == losses[1]


def test_without_a_number_of_steps_it_takes_half_of_the_training(tiny_model):
    model = tiny_model("llama", **HYBRID)
    schedule = EncodingSchedule(model, {"token_share": (1.0, 0.0)})
    assert model.config.token_share == 0.0  # nothing has moved yet
    shares = []
    for step in range(5):
        schedule.on_step_begin(None, TrainerState(global_step=step, max_steps=5), None)
        shares.append(model.config.token_share)
    assert shares == pytest.approx([2 / 3, 1 / 3, 0, 0, 0])


def test_a_jump_at_the_first_step_is_said(settings, tmp_path, capsys):
    pretrain(settings | {"encoding_schedule": {"token_share": [1.0, 0.2]}, "output_dir": str(tmp_path / "first")})
    assert "begins at" not in capsys.readouterr().out
    further = {key: settings[key] for key in settings if key in vars(TrainingArguments(output_dir="x", use_cpu=True))}
    further |= {"data": settings["data"], "train_length": 32, "initial_model": str(tmp_path / "first"), "max_steps": 2}
    pretrain(further | {"encoding_schedule": {"token_share": [0.5, 0.0]}})
    said = capsys.readouterr().out
    assert "token_share: encoding_schedule begins at 0.5, where initial_model has 0.2: step 1 jumps there" in said
    pretrain(further | {"encoding_schedule": {"token_share": [0.2, 0.0]}}, overwrite=True)
    assert "begins at" not in capsys.readouterr().out


def test_the_values_start_at_the_first_and_end_at_the_last():
    assert values_at({"token_share": (0.75, 0.25)}, 0.0) == {"token_share": 0.75}
    assert values_at({"token_share": (0.75, 0.25)}, 7.0) == {"token_share": 0.25}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding_schedule": "token_share"}, "encoding_schedule: 'token_share' given, a mapping such as"),
        ({"encoding_schedule": {}}, "encoding_schedule: {} given, a mapping such as"),
        ({"encoding_schedule": {"token_shar": [1, 0]}}, "'token_shar' is no field that moves; did you mean token_sh"),
        ({"encoding_schedule": {"token_share": 1}}, "token_share has 1, its first and its last value are needed"),
        ({"encoding_schedule": {"token_share": [1, 0, 1]}}, "its first and its last value are needed"),
        ({"encoding_schedule": {"token_share": [1, float("nan")]}}, "its first and its last value are needed"),
        ({"encoding_schedule": {"token_share": [1, -1]}}, "token_share must lie between 0 and 1, got -1"),
        ({"token_share": 1.0}, "token_share: encoding_schedule sets it, from its first value on; leave it out"),
        ({"encoding_schedule_steps": 7}, "encoding_schedule_steps: 7 given, the training has 6"),
        ({"encoding_schedule_steps": 0}, "encoding_schedule_steps: 0 given, at least 1 is needed"),
        ({"encoding_schedule": None}, "encoding_schedule_steps: there is no encoding_schedule that would take them"),
        ({"torch_compile": True}, "torch_compile: with encoding_schedule it would compile anew in every step"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2},
            "load_best_model_at_end: the best of encoding_schedule's models is the least moved one",
        ),
        ({"model_type": "llama"}, "a model of type llama has no such field"),
    ],
    ids=str,
)
def test_a_schedule_that_makes_no_sense_is_refused(settings, changes, message):
    if changes.get("model_type") == "llama":
        settings = {key: value for key, value in settings.items() if key not in HYBRID}
    with pytest.raises(ValueError, match=message):
        pretrain(settings | changes)
    assert not Path(settings["output_dir"]).exists()
