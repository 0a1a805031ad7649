"""SCROLLS (Shaham et al. 2022, arXiv 2201.03533): seven tasks on long documents, answered in words.

`tasks` and `data` say what is there, `prompts` what a model reads, `metrics` how answers are scored, and `run` lets a
model answer. Fine-tuning for them is `bipe_hf.lab.finetuning.scrolls`.

They are no tasks of the lm-evaluation-harness, which asks in text and cuts the beginning of what is too long: a prompt
here is token ids, of document and question apart, as in training, and its text is often divided into other tokens.
"""

from .metrics import score
from .prompts import encode_prompts
from .run import ScrollsEvaluation, ScrollsResult, answer_scrolls, scrolls_table
from .tasks import SCROLLS_TASKS, ScrollsTask


__all__ = [
    "SCROLLS_TASKS",
    "ScrollsEvaluation",
    "ScrollsResult",
    "ScrollsTask",
    "answer_scrolls",
    "encode_prompts",
    "score",
    "scrolls_table",
]
