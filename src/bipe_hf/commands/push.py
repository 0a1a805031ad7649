"""`bipe-hf push MODEL REPO`: put a trained model on the Hugging Face Hub."""

import argparse


NAME = "push"
HELP = "put a trained model on the Hugging Face Hub, with code and model card"
DESCRIPTION = """\
Put a trained model on the Hugging Face Hub in one commit: weights, config, tokenizer, the code that loads it where
this package is not installed, what `bipe-hf` recorded of its training, and a model card made of these.

  bipe-hf push runs/demo/tiny_bipe_rope my-bipe --evaluation evaluation.json

A README.md of your own in MODEL is pushed as it is. Checkpoints, optimizer states and logs stay where they are.
Log in first: `hf auth login`, or the environment variable HF_TOKEN.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", metavar="MODEL", help="folder that holds a model and its tokenizer")
    parser.add_argument("repo", metavar="REPO", help="OWNER/NAME, or NAME for a repository of your own")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--message", metavar="TEXT", help="message of the commit (default: Upload and the class)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--revision", metavar="BRANCH", help="branch to push to, made if it is new (default: main)")
    where.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    parser.add_argument(
        "--evaluation", metavar="FILE.json", help="results of `bipe-hf evaluate`; those of MODEL go along"
    )
    parser.add_argument("--figure", metavar="FILE.png", help="figure of `bipe-hf plot` to go along")


def run(arguments: argparse.Namespace) -> None:
    """Pushes and prints where the model is and of which files it consists."""
    from ..hub.push import push
    from ..lab.common.checkpoints import open_folder
    from ..lab.common.files import user_path
    from ..lab.evaluation.results import results_of_model

    model = open_folder(arguments.model)
    evaluation = arguments.evaluation and results_of_model(arguments.evaluation, model)
    pushed = push(
        user_path(arguments.model),
        model.config,
        model.tokenizer,
        arguments.repo,
        private=arguments.private,
        revision=arguments.revision,
        message=arguments.message,
        evaluation=evaluation,
        figure=arguments.figure and user_path(arguments.figure),
        create_pr=arguments.create_pr,
    )
    print(f"pushed to {pushed.url}")
    for file in pushed.files:
        print(f"  {file}")
    for file in pushed.removed:
        print(f"  removed, this model has none: {file}")
