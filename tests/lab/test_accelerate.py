"""Training with several processes: the files in `configs/accelerate/`, launched on two CPU processes (gloo)."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.commands import launch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from paths import HELPERS, ROOT
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from words import write_corpus

from bipe_hf.lab.common.run_folder import find_checkpoint
from bipe_hf.lab.common.session import set_up_sharding


CONFIGS = ROOT / "configs"
ACCELERATE_CONFIGS = sorted((CONFIGS / "accelerate").glob("*.yaml"))
INTERRUPTED_RUN, PLAIN_LOOP = (str(HELPERS.joinpath(f"{name}.py")) for name in ("interrupted_run", "plain_loop"))

# Two processes add the same float32 numbers in another order: 1e-6 of a loss of 5.7 was measured.
TOLERANCE = 5e-6

every_config = pytest.mark.parametrize("path", ACCELERATE_CONFIGS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Texts, and a configuration that ends within its first pass over them: at the end of a pass, accelerate gives
    blocks twice, so that all processes have as many."""
    folder = tmp_path_factory.mktemp("accelerate")
    (folder / "texts").mkdir()
    write_corpus(folder / "texts", files=8, lines=48)
    settings = {
        "data": str(folder / "texts"),
        "validation_fraction": 0.2,
        "vocab_size": 300,
        "train_length": 32,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_segment_length": 8,
        "tie_word_embeddings": True,
        "max_steps": 4,
        "per_device_train_batch_size": 3,
        "per_device_eval_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 2,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


def flags(settings: dict) -> list[str]:
    return [word for key, value in settings.items() for word in (f"--{key}", str(value).lower())]


def start(folder: Path, *words: str) -> str:
    """Runs Python with `words` and returns what it printed."""
    own = {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=os.environ | own, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def start_two(folder: Path, config: str, *words: str) -> str:
    """`accelerate launch` of two processes with a file of ours."""
    file = CONFIGS / "accelerate" / f"{config}.yaml"
    options = ["--config_file", str(file), "--num_processes", "2", "--main_process_port", "0"]
    return start(folder, "-m", "accelerate.commands.launch", *options, *words)


def one_process(folder: Path, name: str, config: str = "run.yaml", **settings) -> Path:
    """A run that was not interrupted, of one process that takes the blocks of both."""
    settings |= {"per_device_train_batch_size": 6, "output_dir": name}
    start(folder, "-m", "bipe_hf.commands", "pretrain", config, *flags(settings))
    return folder / name


@pytest.fixture(scope="module")
def reference(folder) -> Path:
    run = one_process(folder, "reference")
    assert json.loads((run / "trainer_state.json").read_text())["epoch"] < 1
    return run


def losses(run: Path) -> list[float]:
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert len(losses) == 4
    return [*losses, json.loads((run / "training.json").read_text())["eval_loss"]]


def assert_same_training(run: Path, other: Path, tolerance: float = TOLERANCE):
    """The same loss curve and, loaded anew, the same weights."""
    assert losses(run) == pytest.approx(losses(other), abs=tolerance)
    ours, theirs = (AutoModelForCausalLM.from_pretrained(each) for each in (run, other))
    assert (ours.lm_head.weight is ours.get_input_embeddings().weight) == ours.config.tie_word_embeddings
    theirs = dict(theirs.named_parameters())
    assert dict(ours.named_parameters()).keys() == theirs.keys()
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(weight, theirs[name], atol=tolerance, rtol=0)


# The files


def launch_arguments(path: Path) -> argparse.Namespace:
    """What `accelerate launch` makes of a file."""
    words = ["--config_file", str(path), "--num_processes", "2", "--main_process_port", "0", "script.py"]
    return launch._validate_launch_command(launch.launch_command_parser().parse_args(words))[0]


def test_every_way_to_distribute_has_its_file():
    assert [path.stem for path in ACCELERATE_CONFIGS] == ["ddp", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"]


@every_config
def test_every_key_is_commented_and_the_usage_names_the_files(path):
    text = path.read_text()
    for line in text.split("\n\n")[1].splitlines():
        assert re.fullmatch(r"(  )?\w+: \S+ +# \S.*|\w+_config:", line), line
    usage = re.search(r"  accelerate launch --config_file (\S+) \\\n#     -m bipe_hf\.commands pretrain (\S+)\n", text)
    assert all((CONFIGS.parent / file).is_file() for file in usage.groups())
    assert CONFIGS.parent / usage[1] == path
    assert max(map(len, text.splitlines())) <= 119


@every_config
def test_accelerate_knows_every_key(path):
    config = load_config_from_file(str(path))  # refuses unknown ones, but not inside a mapping
    known = vars(launch.launch_command_parser().parse_args(["script.py"]))
    assert {*config.fsdp_config, *config.deepspeed_config} <= known.keys()


def test_fsdp2_is_set_up_as_the_file_says(monkeypatch):
    for name, value in prepare_multi_gpu_env(launch_arguments(CONFIGS / "accelerate" / "fsdp2.yaml")).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward
    assert plugin.cpu_ram_efficient_loading
    assert not plugin.activation_checkpointing
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_is_set_up_as_the_file_says(stage, monkeypatch):
    arguments = launch_arguments(CONFIGS / "accelerate" / f"deepspeed_zero{stage}.yaml")
    arguments.deepspeed_fields_from_accelerate_config = ""
    for name, value in prepare_deepspeed_cmd_env(arguments)[1].items():
        monkeypatch.setenv(name, value)
    plugin = DeepSpeedPlugin()
    optimization = plugin.deepspeed_config["zero_optimization"]
    assert optimization["stage"] == stage
    assert optimization["stage3_gather_16bit_weights_on_model_save"] == plugin.zero3_init_flag == (stage == 3)
    assert optimization["offload_optimizer"]["device"] == optimization["offload_param"]["device"] == "none"
    assert plugin.deepspeed_config["train_micro_batch_size_per_gpu"] == "auto"


def test_deepspeed_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(launch, "is_deepspeed_available", lambda: False)
    path = CONFIGS / "accelerate" / "deepspeed_zero2.yaml"
    words = ["--config_file", str(path), "--num_processes", "2", "script.py"]
    with pytest.raises(ImportError, match="DeepSpeed is not installed"):
        launch.launch_command(launch.launch_command_parser().parse_args(words))


# Runs


@pytest.mark.parametrize("config", ["ddp", "fsdp2"])
def test_two_interrupted_processes_train_what_one_does(config, folder, reference):
    output = start_two(folder, config, INTERRUPTED_RUN, "run.yaml", "--output_dir", config)
    assert_same_training(folder / config, reference)
    assert json.loads((folder / config / "training.json").read_text())["resumed_from"] == "checkpoint-2"
    is_sharded = (folder / config / "checkpoint-4" / "pytorch_model_fsdp.bin").exists()
    assert is_sharded == (config == "fsdp2")
    reports = [f"resuming {config} from checkpoint-2", "'eval_loss'", f"saved to {config}"]
    assert [output.count(report) for report in reports] == [1, 1, 1], "only the main process reports"


def test_run_of_two_processes_is_resumed_by_two(tmp_path, reference):
    run = tmp_path / "run"
    (run / "checkpoint-4").mkdir(parents=True)
    (run / "pretrain.yaml").write_text("seed: 1\n")
    state = (reference / "checkpoint-4" / "rng_state.pth").read_bytes()
    for name in ("rng_state_0.pth", "rng_state_1.pth"):
        (run / "checkpoint-4" / name).write_bytes(state)
    (run / "checkpoint-4" / "trainer_state.json").write_bytes((reference / "trainer_state.json").read_bytes())
    arguments = {"overwrite": False, "say": lambda line: None}
    assert find_checkpoint(run, {"seed": 1}, **arguments, processes=2) == run / "checkpoint-4"
    with pytest.raises(ValueError, match="checkpoint-4 was written by 2 training processes, now there are 1,"):
        find_checkpoint(run, {"seed": 1}, **arguments, processes=1)


@pytest.mark.parametrize("name", ["optimizer.bin", "global_step2/zero_pp_rank_1_mp_rank_00_optim_states.pt"])
def test_damaged_files_of_fsdp_and_deepspeed_are_noticed(name, tmp_path, reference):
    shutil.copytree(reference / "checkpoint-2", tmp_path / "checkpoint-2")
    shutil.copytree(reference / "checkpoint-4", tmp_path / "checkpoint-4")
    (tmp_path / "pretrain.yaml").write_text("seed: 1\n")
    damaged = tmp_path / "checkpoint-4" / name
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes((reference / "checkpoint-4" / "optimizer.pt").read_bytes()[:-100])
    lines = []
    found = find_checkpoint(tmp_path, {"seed": 1}, overwrite=False, say=lines.append)
    assert found == tmp_path / "checkpoint-2"
    assert lines[0].endswith(f"{damaged.name} is damaged")


def test_sharded_run_keeps_losses_in_32_bits():
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, state_dict_type="FULL_STATE_DICT", mixed_precision_policy="bf16"
    )
    set_up_sharding(plugin)
    policy = plugin.mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype) == (torch.bfloat16, torch.bfloat16)
    assert policy.output_dtype is None


def test_checkpoints_in_parts_are_refused():
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT")
    with pytest.raises(ValueError, match="fsdp_state_dict_type: SHARDED_STATE_DICT given, .* FULL_STATE_DICT"):
        set_up_sharding(plugin)


# What takes longer


def unfinished(run: Path, *checkpoints: str) -> Path:
    """A copy of a finished run, as an interruption before its end leaves it, without some checkpoints."""
    copy = Path(shutil.copytree(run, run.with_name(f"{run.name}_unfinished")))
    for file in ("training.json", "model.safetensors", "trainer_state.json"):
        (copy / file).unlink()
    for checkpoint in checkpoints:
        shutil.rmtree(copy / checkpoint)
    return copy


@pytest.mark.slow
def test_new_processes_resume_what_others_began(folder, reference):
    """The command of the files, too: `-m bipe_hf.commands`."""
    run = folder / "command"
    command = ("-m", "bipe_hf.commands", "pretrain", "run.yaml", "--output_dir")
    start_two(folder, "ddp", *command, run.name)
    assert_same_training(run, reference)
    resumed = unfinished(run, "checkpoint-4")
    start_two(folder, "ddp", *command, resumed.name)
    assert_same_training(resumed, run, tolerance=0)


@pytest.mark.slow
def test_sharded_run_interrupted_after_its_last_step_is_measured_and_saved(folder, reference):
    start_two(folder, "fsdp2", INTERRUPTED_RUN, "run.yaml", "--output_dir", "ended")
    resumed = unfinished(folder / "ended")
    output = start_two(folder, "fsdp2", INTERRUPTED_RUN, "run.yaml", "--output_dir", resumed.name)
    assert_same_training(resumed, folder / "ended", tolerance=0)
    assert output.count("'eval_loss'") == 1, "only the main process reports"


GPT_NEOX = {"model_type": "bipe_gpt_neox", "inter_encoding": "alibi", "tie_word_embeddings": False}


@pytest.fixture(scope="module")
def gpt_neox_reference(folder) -> Path:
    return one_process(folder, "gpt_neox", **GPT_NEOX)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "options"),
    [("ddp", ()), ("fsdp2", ()), ("fsdp2", ("--fsdp_activation_checkpointing", "true"))],
    ids=["ddp", "fsdp2", "activation_checkpointing"],
)
def test_both_families_and_encodings_are_distributed(config, options, folder, gpt_neox_reference):
    name = f"gpt_neox_{config}{len(options)}"
    start_two(folder, config, *options, INTERRUPTED_RUN, "run.yaml", *flags(GPT_NEOX | {"output_dir": name}))
    assert_same_training(folder / name, gpt_neox_reference)


@pytest.mark.slow
def test_sharded_run_in_16_bits_keeps_32_bit_weights_and_losses(folder):
    one = one_process(folder, "bf16", bf16=True)
    start_two(folder, "fsdp2", INTERRUPTED_RUN, "run.yaml", *flags({"bf16": True, "output_dir": "bf16_sharded"}))
    # autocast and FSDP round in different places: some 2**-9 of a logit of order 0.1; 6.4e-4 was measured
    assert losses(folder / "bf16_sharded") == pytest.approx(losses(one), abs=2e-3)
    assert AutoModelForCausalLM.from_pretrained(folder / "bf16_sharded").dtype == torch.float32


@pytest.mark.slow
def test_blocks_of_a_stream_are_shared_out(folder, reference):
    settings = yaml.safe_load((folder / "run.yaml").read_text()) | {"streaming": True, "tokenizer": "reference"}
    del settings["vocab_size"]
    (folder / "stream.yaml").write_text(yaml.safe_dump(settings))
    one = one_process(folder, "stream", config="stream.yaml")
    start_two(folder, "ddp", INTERRUPTED_RUN, "stream.yaml", "--output_dir", "stream_ddp")
    assert_same_training(folder / "stream_ddp", one)


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["run.yaml", "stream.yaml"])
def test_two_processes_extend_indices_as_one_does(settings, folder, reference):
    """A stream is read by the first process, which collates for both."""
    if settings == "stream.yaml":
        stream = yaml.safe_load((folder / "run.yaml").read_text()) | {"streaming": True, "tokenizer": "reference"}
        del stream["vocab_size"]
        (folder / "stream.yaml").write_text(yaml.safe_dump(stream))
    name = f"alibi_{Path(settings).stem}"
    alibi = {"inter_encoding": "alibi", "alibi_slope_scale": 4.0}  # RoPE hardly matters before a model has learnt much
    plain = one_process(folder, name, config=settings, **alibi)
    one = one_process(folder, f"{name}_extended", config=settings, index_stretch=8.0, **alibi)
    assert max(abs(a - b) for a, b in zip(losses(one), losses(plain), strict=True)) > 100 * TOLERANCE
    options = flags({"index_stretch": 8.0, "output_dir": f"{name}_ddp", **alibi})
    start_two(folder, "ddp", "-m", "bipe_hf.commands", "pretrain", settings, *options)
    assert losses(folder / f"{name}_ddp") == pytest.approx(losses(one), abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp", "fsdp2"])
def test_loop_without_trainer_is_distributed(config, folder, reference):
    start(folder, PLAIN_LOOP, "reference", "loop")
    units = start_two(folder, config, PLAIN_LOOP, "reference", f"loop_{config}").split()
    assert ({"model.layers.0", "model.layers.1"} <= set(units)) == (config == "fsdp2")
    ours, theirs = (AutoModelForCausalLM.from_pretrained(folder / name) for name in (f"loop_{config}", "loop"))
    for (name, weight), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(weight, other, atol=TOLERANCE, rtol=0, msg=name)


@pytest.mark.slow
def test_parts_that_a_loop_saved_are_merged_by_accelerate(folder, reference):
    parts = ("--fsdp_state_dict_type", "SHARDED_STATE_DICT")
    start_two(folder, "fsdp2", *parts, PLAIN_LOOP, "reference", "loop_in_parts")
    command = ("-m", "accelerate.commands.accelerate_cli", "merge-weights")
    start(folder, *command, "loop_in_parts_state/pytorch_model_fsdp_0", "merged")
    merged = load_file(folder / "merged" / "model.safetensors")
    whole = load_file(folder / "loop_in_parts" / "model.safetensors")
    assert merged.keys() == whole.keys()
    assert all(torch.equal(merged[name], whole[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_trains_what_one_process_does(stage, folder, reference):
    """DeepSpeed is no dependency: it is built where it is installed and again, for the CPU, when it first runs."""
    pytest.importorskip("deepspeed", reason="needs `pip install deepspeed` and a C++ compiler")
    given = ("hidden_size", "intermediate_size", "num_", "vocab_size", "tie_", "max_segment_length")
    settings = yaml.safe_load((folder / "run.yaml").read_text()) | {"initial_model": "reference"}
    settings = {key: value for key, value in settings.items() if not key.startswith(given)}
    (folder / "continued.yaml").write_text(yaml.safe_dump(settings))
    one, two = folder / f"continued_{stage}", folder / f"zero{stage}"
    one_process(folder, one.name, config="continued.yaml")
    start_two(folder, f"deepspeed_zero{stage}", INTERRUPTED_RUN, "continued.yaml", "--output_dir", two.name)
    assert_same_training(two, one)
    assert json.loads((two / "training.json").read_text())["resumed_from"] == "checkpoint-2"
