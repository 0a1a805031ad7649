"""`bipe-hf evaluate`: perplexity of saved models against test length, or their scores on tasks."""

import argparse
from typing import Any

from ..model.errors_bipe import InputError
from . import measuring


NAME = "evaluate"
HELP = "measure saved models: perplexity at several lengths, or tasks of the lm-evaluation-harness"
DESCRIPTION = """\
Measure the perplexity of saved models at several test lengths, or score them on tasks, and print the tables.

  bipe-hf evaluate runs/bipe_rope runs/rope --lengths 256,512,1024
  bipe-hf evaluate runs/bipe_rope runs/rope --tasks lambada_openai,hellaswag --output tasks.json
  bipe-hf evaluate runs/bipe_rope runs/rope --tasks bipe_passkey --metadata '{"lengths": [256, 512]}'

Protocols of --lengths (a result means nothing without the name of its protocol):
  blocks   non-overlapping blocks; every token is scored but the first of each block
  sliding  a window that moves by --stride tokens; only tokens new to it are scored
  tail     non-overlapping blocks; the last 256 tokens of each are scored

Documents are concatenated, whatever the models were trained with, and the text is cut to a multiple of the longest
length, so that every length covers the same text. Perplexities of models with different tokenizers do not compare;
bits per byte do.

--tasks runs the lm-evaluation-harness (the extra lm-eval), which cuts the beginning off a request that is
longer than --max-length: by default the model's max_position_embeddings, and that is the train length of what
`bipe-hf pretrain` made. Beside its own tasks there are those of this package, for which nothing is cut, answers are
greedy, and a figure is drawn beside the output. --metadata sets what they measure:

bipe_passkey  (Mohtashami and Jaggi 2023): a number stands somewhere in a long text that says nothing else, and the
  model is asked for it. The share of keys found at each of `lengths`, which count every token of the prompt, and
  `depths` (0, 0.25, 0.5, 0.75, 1; 0 puts the key before the text, 1 behind it), of `samples` (20) keys each, from
  `seed` (0). A prompt takes as much text as fits: the sentences of the paper, or the held-out part of `data`
  (`text_column`, `validation_fraction`). A key is found if the first number that the model writes is that key.

bipe_arithmetic, bipe_chain: the tasks of `bipe-hf synthetic`, for models that were trained on them. The share of right
  answers, and of right steps, at each of `sizes`, numbers of operators, of `samples` (500) questions from `seed` (0)
  that no training asks.
"""
# The arguments that belong to one of the two measurements.
OF_LENGTHS = (
    "protocol",
    "stride",
    "data",
    "split",
    "text_column",
    "validation_fraction",
    "streaming",
    "max_tokens",
    "batch_tokens",
    "config_fields",
)
OF_TASKS = (
    "tasks_folder",
    "metadata",
    "num_fewshot",
    "apply_chat_template",
    "fewshot_as_multiturn",
    "system_instruction",
    "limit",
    "max_length",
    "batch_size",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    measuring.add_model_arguments(parser, several=True)
    measured = parser.add_argument_group("what to measure").add_mutually_exclusive_group(required=True)
    measured.add_argument("--lengths", help="perplexity at these lengths in tokens, comma separated: 256,512,1024")
    measured.add_argument("--tasks", help="scores on these tasks or groups, comma separated: arc_easy,mmlu_*")
    # Without a value from the command line these stay away: `evaluate` and `evaluate_tasks` have the defaults.
    text = parser.add_argument_group("perplexity (--lengths)", argument_default=argparse.SUPPRESS)
    text.add_argument("--protocol", help="one or several, comma separated (default: blocks)")
    text.add_argument("--stride", type=int, help="tokens the sliding window moves by (default: 256)")
    text.add_argument(
        "--data",
        help="what to read: 'python' (the documentation and sources of this Python), a text file, a folder, a saved "
        "data set, or a data set on the Hub as name or name:config (default: python)",
    )
    text.add_argument("--split", help="train or validation (default: validation)")
    text.add_argument("--text-column", help="column that holds the text (default: text)")
    text.add_argument(
        "--validation-fraction",
        type=float,
        help="part of the documents held out where the data has no splits (default: as the models were trained)",
    )
    text.add_argument("--streaming", action="store_true", help="read a large data set piece by piece")
    text.add_argument("--max-tokens", type=int, help="score at most so many tokens of the text (default: all)")
    text.add_argument("--batch-tokens", type=int, help="tokens per batch: speed and memory (default: 8192)")
    text.add_argument(
        "--config-fields",
        help="fields of the models' config to set otherwise than they were saved, in JSON: "
        """'{"rope_parameters": {"rope_type": "yarn", "factor": 8.0, ...}}'""",
    )
    tasks = parser.add_argument_group("tasks (--tasks)", argument_default=argparse.SUPPRESS)
    tasks.add_argument("--tasks-folder", help="folder with more tasks, as .yaml files of the harness")
    tasks.add_argument("--metadata", help="settings of the tasks of this package, in JSON (see above)")
    tasks.add_argument("--num-fewshot", type=int, help="solved examples before a question (default: as the task says)")
    tasks.add_argument(
        "--apply-chat-template", action="store_true", help="ask by the chat template of each model's tokenizer"
    )
    tasks.add_argument(
        "--fewshot-as-multiturn",
        action="store_true",
        help="with --apply-chat-template: solved examples are turns of their own",
    )
    tasks.add_argument("--system-instruction", metavar="TEXT", help="what stands before every request")
    tasks.add_argument("--limit", type=int, help="score so many documents of each task, to try it out (default: all)")
    tasks.add_argument("--max-length", type=int, help="tokens of a request (default: max_position_embeddings)")
    tasks.add_argument(
        "--batch-size", type=int, help="requests per batch: speed and memory (default: 1; of bipe_*, 8192 tokens)"
    )
    measuring.add_output_arguments(
        parser,
        "evaluation.json",
        "JSON file to write, completed after each result; the tables go beside it as .md",
        "keep an existing output and measure what it lacks",
    )
    measuring.add_machine_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measures, writes the results and prints the tables."""
    given = vars(arguments)
    own, other, measured = (
        (OF_LENGTHS, OF_TASKS, "--tasks") if arguments.tasks is None else (OF_TASKS, OF_LENGTHS, "--lengths")
    )
    useless = [f"--{name.replace('_', '-')}" for name in other if name in given]
    if useless:
        raise InputError(f"{', '.join(useless)}: only {measured} takes this")
    options = {name: given[name] for name in own if name in given}
    options |= {name: given[name] for name in ("revision", "output", "overwrite", "resume", "device", "dtype")}
    options |= {
        "attn_implementation": arguments.attn_implementation,
        "command": measuring.command_line(),
    }
    if arguments.tasks is not None:
        names = _names(arguments.tasks)
        if "metadata" in options:
            options["metadata"] = _mapping("--metadata", options["metadata"])

        from ..lab.tasks.evaluation import task_table
        from ..lab.tasks.run import evaluate_tasks

        evaluation = evaluate_tasks(arguments.models, names, **options)
        table = task_table(evaluation.results)
    else:
        lengths = measuring.integers("--lengths", arguments.lengths)
        if "protocol" in options:
            options["protocols"] = _names(options.pop("protocol"))
        if "config_fields" in options:
            options["config_fields"] = _mapping("--config-fields", options["config_fields"])

        from ..lab.evaluation import evaluate, text_table

        evaluation = evaluate(arguments.models, lengths, **options)
        table = text_table(evaluation.results)
    print(f"\n{table}\n\nwritten to {arguments.output}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _mapping(name: str, text: str) -> dict[str, Any]:
    from ..lab.common.messages import parsed_json

    value = parsed_json(name, text)
    if not isinstance(value, dict) or not value:
        raise InputError(f"{name}: {text!r} is no mapping of fields to values in JSON")
    return value
