"""`bipe-hf scrolls MODEL`: let a model answer a SCROLLS task and score the answers."""

import argparse

from . import measuring


NAME = "scrolls"
HELP = "let a model answer questions about long documents, or summarise them (SCROLLS), and score it"
DESCRIPTION = """\
Let a model answer a split of a SCROLLS task, write down its predictions, and score them as SCROLLS does: F1 of words
(narrative_qa, qasper), exact match (quality, contract_nli) or ROUGE (gov_report, summ_screen_fd, qmsum), in percent.

  bipe-hf finetune configs/finetune_scrolls.yaml
  bipe-hf scrolls runs/finetune_scrolls --output runs/qasper.json

A model that `bipe-hf finetune` trained for a task is asked as it was trained; any other needs --task. Of a document
that is too long the end is cut, never the question.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    measuring.add_model_arguments(parser)
    asked = parser.add_argument_group("what is asked (default: as in fine-tuning)")
    asked.add_argument(
        "--task", help="gov_report, summ_screen_fd, qmsum, narrative_qa, qasper, quality or contract_nli"
    )
    asked.add_argument(
        "--data", help="folder of files TASK/SPLIT.jsonl, or a data set on the Hub (else: tau/scrolls, which is there)"
    )
    asked.add_argument(
        "--max-length", type=int, metavar="N", help="tokens of document, question and answer together (else: 8192)"
    )
    asked.add_argument(
        "--answer-length",
        type=int,
        metavar="N",
        help="tokens of an answer at most, which are kept free for it (else: 200, for summaries 1000)",
    )
    parser.add_argument("--split", default="validation", help="train, validation or test (default: %(default)s)")
    parser.add_argument(
        "--predict-only", action="store_true", help="no scores, as for the test split, whose answers are not public"
    )
    measuring.add_output_arguments(
        parser,
        "scrolls.json",
        "JSON file of the scores; the table goes beside it as .md, the predictions as .jsonl, one by one",
        "keep existing predictions and add what they lack",
    )
    machine = measuring.add_machine_arguments(parser)
    machine.add_argument("--batch-size", type=int, default=1, help="prompts at once: speed and memory (default: 1)")


def run(arguments: argparse.Namespace) -> None:
    """Writes predictions, scores them and prints the table."""
    from ..lab.common.files import user_path
    from ..lab.tasks.scrolls import answer_scrolls, scrolls_table

    options = {name: value for name, value in vars(arguments).items() if name not in ("run", "debug")}
    try:
        evaluation = answer_scrolls(**options, command=measuring.command_line())
    except KeyboardInterrupt:
        resume = "--resume in place of --overwrite" if arguments.overwrite else "--resume"
        raise KeyboardInterrupt(
            f"the same command with {resume} goes on from the predictions beside {arguments.output}"
        ) from None
    if evaluation.results:
        print(f"\n{scrolls_table(evaluation.results)}")
    predictions = user_path(arguments.output).with_suffix(".jsonl")
    print(f"\npredictions written to {predictions}, settings and scores to {arguments.output}")
