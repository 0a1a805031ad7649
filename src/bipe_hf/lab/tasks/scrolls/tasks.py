"""The seven tasks: what their inputs hold, how long their answers are, how these are scored."""

from typing import NamedTuple

from ....model.errors_bipe import InputError, did_you_mean


_BLANK_LINE = "\n\n"


class ScrollsTask(NamedTuple):
    """What is particular to one task."""

    metric: str
    """`f1`, `exact_match` or `rouge`."""
    answer_length: int
    """Tokens that are left to an answer, out of 8192: 200 to a question, 1000 to a summary."""
    has_question: bool = True
    """The input begins with a question and a blank line."""
    has_options: bool = False
    """Four options, `(A)` to `(D)`, and a blank line come next. They belong to the question; the answer is the text
    of one of them, without its letter."""

    def split_input(self, text: str) -> tuple[str, str]:
        """The question, empty where the task has none, and the document of an input.

        Raises:
            ValueError: the input does not begin as those of the task do, or holds no document.
        """
        question, document = "", text
        if self.has_question:
            end = text.find(_BLANK_LINE)
            if end >= 0 and self.has_options:
                last_option = text.find("(D)", end)
                end = text.find(_BLANK_LINE, last_option) if last_option >= 0 else -1
            if end < 0:
                beginning = "a question, options (A) to (D)" if self.has_options else "a question"
                raise InputError(f"does not begin with {beginning} and a blank line")
            question, document = text[:end].strip(), text[end + len(_BLANK_LINE) :]
            if not question:
                raise InputError("begins with a blank line in place of a question")
        if not document.strip():
            raise InputError("holds no document")
        return question, document


SCROLLS_TASKS = {
    "gov_report": ScrollsTask("rouge", 1000, has_question=False),
    "summ_screen_fd": ScrollsTask("rouge", 1000, has_question=False),
    "qmsum": ScrollsTask("rouge", 1000),
    "narrative_qa": ScrollsTask("f1", 200),
    "qasper": ScrollsTask("f1", 200),
    "quality": ScrollsTask("exact_match", 200, has_options=True),
    "contract_nli": ScrollsTask("exact_match", 200),
}


def find_task(key: str, name: str | None) -> ScrollsTask:
    """The task of that name. Raises `ValueError`, which names `key`, where there is none."""
    if name not in SCROLLS_TASKS:
        hint = did_you_mean(name, SCROLLS_TASKS) if name else ""
        raise InputError(f"{key}: {name!r} given, one of {', '.join(SCROLLS_TASKS)} is needed{hint}")
    return SCROLLS_TASKS[name]
