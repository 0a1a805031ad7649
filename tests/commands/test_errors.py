"""What a user sees of an error: one line for bad input, a traceback for everything else."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from tiny import TINY
from words import WORDS

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM
from bipe_hf.commands import main
from bipe_hf.lab.common import session
from bipe_hf.lab.common.messages import as_input_error
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.model.errors_bipe import InputError
from bipe_hf.model.travel_bipe import write_whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer([" ".join(WORDS)], 280)
    torch.manual_seed(0)
    config = BipeLlamaConfig(**TINY | {"vocab_size": len(tokenizer), "separator_token_ids": [3]})
    BipeLlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A file of settings for a training of one step; flags override it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n\n".join([" ".join(WORDS)] * 40))
    fields = {"data": "text.txt", "train_length": 16, "vocab_size": 270, "use_cpu": True, "max_steps": 1}
    fields |= {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "tiny.yaml").write_text(json.dumps(fields))
    return "tiny.yaml"


def generate(folder):
    return main(["generate", str(folder), "Once", "--max-new-tokens", "1", "--device", "cpu"])


def raised_deep_inside(monkeypatch, error):
    def fail(*arguments, **keywords):
        raise error

    monkeypatch.setattr(torch.nn.functional, "linear", fail)


@pytest.mark.parametrize("error", [ValueError("no input"), OSError("no input"), RuntimeError("no input")])
def test_an_error_deep_inside_a_library_is_no_bad_input(folder, monkeypatch, error):
    raised_deep_inside(monkeypatch, error)
    with pytest.raises(type(error), match="no input") as caught:
        generate(folder)
    assert [entry.name for entry in caught.traceback][-1] == "fail"


def test_a_process_shows_the_traceback_of_a_defect_and_fails(folder):
    code = (
        "import sys, torch, bipe_hf.commands\n"
        "def fail(*arguments): raise ValueError('no input')\n"
        "torch.nn.functional.linear = fail\n"
        f"sys.exit(bipe_hf.commands.main(['generate', {str(folder)!r}, 'Once', '--device', 'cpu']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "ValueError: no input"


def test_bad_input_is_one_line_and_status_2(capsys):
    assert generate("no/such/folder") == 2
    errors = capsys.readouterr().err
    assert errors.startswith("bipe-hf: error: model no/such/folder: ")
    assert errors.count("\n") == 1


def test_bad_input_shows_its_traceback_on_request(monkeypatch):
    with pytest.raises(InputError):
        main(["--debug", "generate", "no/such/folder", "Once"])
    with pytest.raises(InputError):
        main(["generate", "no/such/folder", "Once", "--debug"])
    monkeypatch.setenv("BIPE_HF_DEBUG", "1")
    with pytest.raises(InputError):
        generate("no/such/folder")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EISDIR, errno.ENAMETOOLONG])
def test_what_the_machine_refuses_is_one_line(folder, monkeypatch, capsys, number):
    raised_deep_inside(monkeypatch, OSError(number, os.strerror(number), "some/file"))
    assert generate(folder) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"bipe-hf: error: some/file: {os.strerror(number)}"


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError("Not enough disk space. Needed: 2 GB"),
        Exception("No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_line_whoever_says_so(folder, monkeypatch, capsys, error):
    raised_deep_inside(monkeypatch, error)
    assert generate(folder) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"bipe-hf: error: {error}"


def test_nothing_half_written_is_left_by_a_full_disk(tmp_path, monkeypatch):
    def fail(self, data, *arguments, **keywords):
        with self.open("wb") as file:
            file.write(data[:3] if isinstance(data, bytes) else data[:3].encode())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_bytes", fail)
    monkeypatch.setattr(Path, "write_text", fail)
    for write in (lambda: write_whole(tmp_path / "a", b"12345"), lambda: write_whole(tmp_path / "b", "12345")):
        with pytest.raises(OSError, match="No space"):
            write()
    assert list(tmp_path.iterdir()) == []


def test_output_that_nobody_reads_ends_a_command_in_silence():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "bipe_hf", "env"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert done.returncode == 141
    assert "Broken" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["bipe_hf", "bipe_hf.commands"])
def test_an_interruption_while_libraries_are_imported_is_one_line(tmp_path, module):
    (tmp_path / "transformers.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    words = [sys.executable, "-m", module, "env"]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "bipe-hf: interrupted\n")
    in_a_script = [sys.executable, "-c", "import bipe_hf"]
    done = subprocess.run(
        in_a_script, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert "KeyboardInterrupt" in done.stderr


@pytest.mark.parametrize("prompt", ["caf\udce9 abc", "-"])
def test_a_prompt_in_other_bytes_is_one_line(monkeypatch, capsys, prompt):
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9 abc"), encoding="utf-8", errors="surrogateescape")
    )
    assert main(["generate", "model", prompt]) == 2
    assert capsys.readouterr().err == "bipe-hf: error: the prompt is not UTF-8 text (behind 'caf')\n"


def test_a_name_that_is_too_long_for_a_file_is_one_line(capsys):
    assert generate("x" * 5000) == 2
    assert capsys.readouterr().err.endswith(f"{os.strerror(errno.ENAMETOOLONG)}\n")


def test_a_prompt_that_is_no_text_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    assert main(["generate", "model", "-"]) == 2
    assert capsys.readouterr().err == "bipe-hf: error: the prompt on standard input is not utf-8 text (byte 0)\n"


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("tf32", "true", "the Trainer does not accept its settings (--tf32 requires"),
        ("fsdp", "nonsense", "the Trainer does not accept its settings (Unknown `fsdp` option: nonsense)"),
        ("report_to", "nonsense", "the Trainer does not accept its settings (nonsense is not supported"),
        ("accelerator_config", "nowhere.json", "the Trainer does not accept its settings ([Errno 2]"),
        ("push_to_hub", "true", "the Trainer does not accept its settings (Cannot reach"),
        ("output_dir", "text.txt/run", "the Trainer does not accept its settings ([Errno 20] Not a directory"),
        ("torch_compile_backend", "nonsense", "the Trainer does not accept its settings ('NONSENSE' is not"),
        ("optim", "nonsense", "optim: invalid choice: 'nonsense'"),
        ("optim_args", "nonsense", "optim: adamw_torch_fused cannot be used ("),
        ("lr_scheduler_type", "cosine_with_min_lr", "lr_scheduler_type: cosine_with_min_lr cannot be used (One of"),
        ("attn_implementation", "nonsense", 'the model cannot be built (Specified `attn_implementation="nonsense"`'),
        ("attn_implementation", "flex_attention", "attn_implementation: flex_attention is not trained on a CPU"),
        ("attn_implementation", "flash_attention_2", "the model cannot be built (FlashAttention2 has been toggled"),
        ("attn_implementation", "kernels-community/any", "the model cannot be built (`kernels` is"),
        ("use_liger_kernel", "true", "use_liger_kernel needs liger-kernel, which is not installed"),
        ("deepspeed", "any.json", "the Trainer does not accept its settings ("),
        ("parallelism_config", "{}", "parallelism_config: invalid ParallelismConfig value"),
        ("accelerator_config", '{"nonsense": 1}', "the Trainer does not accept its settings ("),
        ("dataloader_persistent_workers", "true", "the Trainer cannot load batches by its settings (persistent"),
        ("dataloader_multiprocessing_context", "spawn", "the Trainer cannot load batches by its settings (multi"),
        ("label_names", "words", "label_names cannot be set: the labels are the tokens"),
        ("metric_for_best_model", "accuracy", "metric_for_best_model: 'accuracy' given, only loss is measured"),
        ("seed", "-1", "seed: -1 given, 0 to 4294967295 is accepted"),
        ("num_attention_heads", "3", "config of the model: "),
        ("revision", "main", "revision: 'main' given, but no initial_model to have it"),
        ("tokenizer", "no/such/tokenizer", "tokenizer: no/such/tokenizer cannot be loaded ("),
    ],
)
def test_a_setting_that_a_library_refuses_is_one_line_before_anything_is_written(
    settings, capsys, monkeypatch, flag, value, message
):
    monkeypatch.setattr(session, "is_liger_kernel_available", lambda: False)
    assert main(["pretrain", settings, f"--{flag}", value]) == 2
    assert not list(Path().rglob("pretrain.yaml"))
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("bipe-hf: error: ")
    assert message in line


def test_a_refusal_names_what_was_given_and_keeps_its_cause():
    with pytest.raises(InputError, match=r"^the file \(damaged\)$") as caught, as_input_error("the file"):
        raise ValueError("damaged\nin many ways")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(KeyError), as_input_error("the file"):
        raise KeyError("of ours")
