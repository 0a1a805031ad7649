"""The tasks by the names that the key `task` takes."""

from .causal_lm import CausalLM
from .classification import Classification
from .instructions import Instructions
from .question_answering import QuestionAnswering
from .scrolls import Scrolls
from .token_classification import TokenClassification


TASKS = {
    "causal_lm": CausalLM,
    "instructions": Instructions,
    "classification": Classification,
    "token_classification": TokenClassification,
    "question_answering": QuestionAnswering,
    "scrolls": Scrolls,
}
