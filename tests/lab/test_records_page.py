"""`docs/records.md`: its blocks run one after the other, with fewer steps than it takes to learn."""

import re
import shlex

import pytest
from paths import ROOT

from bipe_hf.commands import main


PAGE = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
SMALLER = {"max_steps": 8, "eval_steps": 4, "save_steps": 4, "hidden_size": 32, "report_to": "none"}


@pytest.mark.usefixtures("own_datasets_cache")
def test_the_blocks_of_the_page_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = re.findall(r"```(python|bash|)\n(.*?)```", PAGE, flags=re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "bash", "", "bash", "bash", "bash", "python"]
    printed = ""
    for language, block in blocks:
        if language == "python":
            exec(compile(block, "records.md", "exec"), names)
        elif language == "bash":
            for line in block.splitlines():
                words = shlex.split(line)[1:]
                flags = [word for key, value in SMALLER.items() for word in (f"--{key}", str(value))]
                status = main(words + flags * (words[1] == "train"))
                said = capsys.readouterr()
                printed += said.out
                # so few steps may leave a model that draws too few valid rows, which it says then
                assert status == (words[1] == "continue" and "not found in 10 draws each" in said.err), line
        else:  # what training says
            assert block.splitlines() == [line for line in printed.splitlines() if line in block and line.strip()]
    assert (tmp_path / "filled.csv").read_text().count("\n") == 31
    assert (tmp_path / "runs" / "flowers-scores" / "scores.html").is_file()


def test_every_key_that_overrides_a_guess_is_one():
    from bipe_hf.lab.records import RecordSettings

    named = re.findall(r"\| (`\w+`(?:, `\w+`)?) \|", PAGE)
    keys = {key.strip("` ") for group in named for key in group.split(",")}
    assert keys == {"text_encoding", "kind", "delimiter", "quote", "header", "levels", "order"}
    assert keys <= RecordSettings.all_keys()
