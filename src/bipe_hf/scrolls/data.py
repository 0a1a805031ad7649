"""Rows of SCROLLS: local files, or the archives of the Hub."""

from pathlib import Path

import datasets
from datasets import Dataset
from huggingface_hub import hf_hub_download

from ..data.tables import as_value_error


HUB_NAME = "tau/scrolls"
SPLITS = ("train", "validation", "test")


def read_split(data: str, task: str, split: str) -> Dataset:
    """The rows of one split of a task, with all their columns (`id`, `pid`, `input`, `output`).

    Args:
        data: a folder that holds `<task>/<split>.jsonl`, as the archives of SCROLLS do, or a data set of the Hugging
            Face Hub that holds `<task>.zip`: `tau/scrolls`. `datasets` itself does not load that one any more, since
            it is described by a script.
        task: its name in `SCROLLS_TASKS`.
        split: one of `SPLITS`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or holds no rows.
    """
    folder = Path(data).expanduser()
    if not folder.exists() and data.count("/") == 1 and not data.startswith((".", "/", "~")):
        name = f'"{data}" (no local folder, so taken for a data set of the Hugging Face Hub)'
        with as_value_error(name):
            archive = hf_hub_download(data, f"{task}.zip", repo_type="dataset")
            folder = Path(datasets.DownloadManager().extract(archive))
    file = folder / task / f"{split}.jsonl"
    if not file.is_file():
        raise FileNotFoundError(f"data: {data} has no file {task}/{split}.jsonl")
    with as_value_error(str(file)):
        return datasets.load_dataset("json", data_files={split: str(file)})[split]
