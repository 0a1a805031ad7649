"""Tokenizing and saving in several processes at a time."""

import os
import subprocess
import sys
import textwrap

from paths import HELPERS

from bipe_hf import BipeLlamaConfig


def run(code: str, *arguments: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    subprocess.run(command, env=environment, cwd=HELPERS, check=True, timeout=60)


def test_a_tokenizer_works_in_a_forked_process_whose_parent_has_used_torch():
    """As `Dataset.map(num_proc=...)` forks: there an operation of torch hangs that would take several threads."""
    run(
        """
        import os
        import torch
        from word_tokenizer import make_word_tokenizer
        tokenizer = make_word_tokenizer()
        torch.ones(8, 100_000).cumsum(1) * 2
        child = os.fork()
        if child == 0:
            batch = tokenizer(["w01 w02 w03 " * 100] * 1000)
            os._exit(batch["segment_ids"][-1][:4] != [0, 0, 0, 1])
        assert os.waitpid(child, 0)[1] == 0
        """
    )


def test_several_processes_save_into_one_folder(tmp_path):
    BipeLlamaConfig(separator_token_ids=[3]).save_pretrained(tmp_path)
    run(
        """
        import os, sys
        from bipe_hf import BipeLlamaConfig
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                for _ in range(5):
                    BipeLlamaConfig(separator_token_ids=[3]).save_pretrained(sys.argv[1])
                os._exit(0)
            children.append(child)
        assert all(os.waitpid(child, 0)[1] == 0 for child in children)
        """,
        str(tmp_path),
    )
    assert not [*tmp_path.glob(".*"), *tmp_path.glob("*.partial")]


def test_a_save_that_was_cut_off_can_be_repeated(tmp_path):
    config = BipeLlamaConfig(separator_token_ids=[3])
    config.save_pretrained(tmp_path)
    (tmp_path / "travel_bipe.py").write_text("")
    config.save_pretrained(tmp_path)
    assert (tmp_path / "travel_bipe.py").stat().st_size > 0
