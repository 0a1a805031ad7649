"""Write the reference pages of the documentation from the code.

python scripts/reference_pages.py

The pages are `docs/reference_configuration.md`, `docs/reference_commands.md` and `docs/reference_yaml.md`. A test
compares them with what this script makes; `--output FOLDER` writes them elsewhere.
"""

import argparse
import dataclasses
import importlib
import inspect
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bipe_hf.commands import COMMANDS
from bipe_hf.lab.common.settings import RunSettings
from bipe_hf.lab.common.tables import markdown
from bipe_hf.lab.comparison.entries import GeneratedMeasurement, TextMeasurement
from bipe_hf.lab.comparison.experiments import EXPERIMENTS
from bipe_hf.lab.comparison.plan import ENTRY_KEYS, KEYS, OWN_SETTINGS
from bipe_hf.lab.finetuning import FinetuneSettings
from bipe_hf.lab.records.arguments import RecordSettings
from bipe_hf.lab.tasks.synthetic.arguments import SyntheticSettings
from bipe_hf.lab.training import PretrainSettings
from bipe_hf.model.configuration_bipe import own_fields
from bipe_hf.model.encodings_bipe import ENCODINGS


DOCS = Path(__file__).parents[1] / "docs"
MADE = "<!-- Made by scripts/reference_pages.py from the code: change the code, then run the script. -->"
TRAINING_ARGUMENTS = "https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments"
# Fields that follow from a train length are shown for this one.
TRAIN_LENGTH = 1024


def main() -> None:
    """Writes every page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=DOCS, help="folder for the pages (default: docs)")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (output / name).write_text(make(), encoding="utf-8")
        print(f"written: {output / name}")


def configuration_page() -> str:
    """Fields of the configurations, and the names of encodings."""
    fields = own_fields()
    parts = [
        "# Configuration fields",
        MADE,
        "`BipeLlamaConfig` has all fields of `LlamaConfig`, `BipeGPTNeoXConfig` all of `GPTNeoXConfig`. Both have the"
        " fields below besides. A checkpoint keeps them in `config.json`. `BipeLlamaConfig.for_encoding(name, ...)`"
        " sets several of them by [one name](#names-of-encodings).",
        "A field that nothing reads is saved and changes nothing. The column *read by* says when a field counts.",
        "## All fields",
        _table(
            ("field", "type", "default", "read by"),
            (
                (f"[`{name}`](#{name})", _type(field.type), _value(field.default), _readers(field.metadata["read_by"]))
                for name, field in fields.items()
            ),
        ),
    ]
    for name, field in fields.items():
        choices = field.metadata["choices"]
        parts += [f"### `{name}`", f"{_sentence(field.metadata['help'])}"]
        facts = [("Type", _type(field.type).replace("\\|", "|")), ("Default", _value(field.default))]
        facts += [("Values", ", ".join(f"`{choice}`" for choice in choices))] if choices else []
        readers = _readers(field.metadata["read_by"])
        facts += [("Read by", readers)] if readers else []
        parts.append("\n".join(f"- {title}: {text}" for title, text in facts))
    parts += [
        "### `bipe_hf_version`",
        "The version of this package that saved the configuration. `save_pretrained` sets it.",
        "## Names of encodings",
        "`for_encoding(name, tokenizer=..., train_length=...)`, the key `encoding` of a YAML file and the flag"
        " `--encoding` of `bipe-hf convert` take these names. A name stands for fields, and the fields are what is"
        " saved. Each can be given beside the name, and then the given one holds. Fields that follow from the train"
        f" length are shown for a `train_length` of {TRAIN_LENGTH:,} tokens. The last column has the presets of"
        " separators that end segments and the units inside them.",
        _table(
            ("name", "in tables and figures", "fields", "separators"),
            (
                (f"`{name}`", encoding.label, _fields_of(encoding), ", ".join(f"`{each}`" for each in encoding.levels))
                for name, encoding in ENCODINGS.items()
            ),
        ),
    ]
    return _page(parts)


def commands_page() -> str:
    """Every command with its arguments."""
    commands = {name: importlib.import_module(f"bipe_hf.commands.{name}") for name in COMMANDS}
    parts = [
        "# Commands",
        MADE,
        "`bipe-hf COMMAND --help` prints what stands here. Every command takes `--debug`, which shows the traceback"
        " of an error; before `pretrain`, `finetune`, `synthetic` and `records train` it stands in front of the"
        " command. [Troubleshooting](troubleshooting.md) explains each message.",
        _table(
            ("command", "what it does"),
            ((f"[`bipe-hf {name}`](#bipe-hf-{name})", _text(command.HELP)) for name, command in commands.items()),
        ),
    ]
    for name, command in commands.items():
        parser = argparse.ArgumentParser(prog=f"bipe-hf {name}", description=command.HELP, add_help=False)
        command.add_arguments(parser)
        parts += _command(parser, 2)
    return _page(parts)


def _command(parser: argparse.ArgumentParser, level: int) -> list[str]:
    parts = [f"{'#' * level} {parser.prog}", f"```text\n{(parser.description or '').strip()}\n```"]
    parts.append(f"```text\n{_usage(parser)}\n```")
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS and action.dest != "help"]
    nested = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    rows = [(_flags(action), _text(_help(action, parser))) for action in actions if action not in nested]
    if rows:
        parts.append(_table(("argument", "what it is"), rows))
    if parser.get_default("overrides") is not None:
        parts.append("Every key of the command is a flag as well: [YAML keys](reference_yaml.md) lists them.")
    for action in nested:
        for subparser in action.choices.values():
            parts += _command(subparser, level + 1)
    return parts


def _usage(parser: argparse.ArgumentParser) -> str:
    """The usage in one line, the same with every version of Python."""
    if parser.usage:
        return parser.usage
    words = [parser.prog]
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS and action.dest != "help"]
    for action in sorted(actions, key=lambda action: not action.option_strings):
        if isinstance(action, argparse._SubParsersAction):
            words.append("ACTION ...")
        elif not action.option_strings:
            words.append(f"[{_shown_value(action)}]" if action.nargs in ("?", "*") else _shown_value(action))
        elif action.required:
            words.append(f"{action.option_strings[-1]} {_shown_value(action)}".strip())
    words.insert(1, "[options]")
    return " ".join(words)


def _shown_value(action: argparse.Action) -> str:
    """What stands for the value of an argument."""
    if action.nargs == 0:
        return ""
    if action.choices is not None and action.metavar is None:
        name = "{" + ",".join(map(str, action.choices)) + "}"
    else:
        name = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    return f"{name} ..." if action.nargs in ("+", "*") else name


def _flags(action: argparse.Action) -> str:
    value = _shown_value(action)
    names = action.option_strings or [""]
    return _cell(", ".join(f"`{f'{name} {value}'.strip()}`" for name in names))


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    given = {key: getattr(value, "__name__", value) for key, value in vars(action).items()}
    return (action.help or "") % {**given, "prog": parser.prog}


def yaml_page() -> str:
    """Every key of a YAML file."""
    parts = [
        "# YAML keys",
        MADE,
        "A YAML file has one `key: value` a line. Flags of the same names override it: `--key value`. `extends: FILE`"
        " takes all other keys from that file. An unknown key is an error. `null` stands for the default. Only `true`"
        " and `false` are booleans. [`configs/README.md`](../configs/README.md) lists the files there are.",
        "`pretrain`, `finetune`, `synthetic` and `records train` take every field of"
        f" [`transformers.TrainingArguments`]({TRAINING_ARGUMENTS}) as a key too, such as `learning_rate`,"
        " `max_steps`, `save_steps` and `per_device_train_batch_size`. Some defaults differ here: `output_dir` is"
        " `runs/<name of the file>`, `save_total_limit` is 2, and `report_to` is `tensorboard` where that is"
        " installed. What cannot be set is listed with each command.",
    ]
    parts += _settings("pretrain", PretrainSettings)
    parts += _settings("finetune", FinetuneSettings)
    parts += _settings("synthetic", SyntheticSettings)
    parts += _settings("records train", RecordSettings)
    parts += [
        "## compare",
        _table(("key", "what it is"), ((f"`{name}`", _text(text)) for name, text in KEYS.items())),
        "`settings`, `entries` and `measure` of a file that `extends` another one are merged with those of the other"
        f" file key by key. `settings` must not have {_names(OWN_SETTINGS)}: each run gets its own.",
        "### Keys of an entry",
        _table(("key", "what it is"), ((f"`{name}`", _text(text)) for name, text in ENTRY_KEYS.items())),
    ]
    kinds = {}
    for task, kind in EXPERIMENTS.items():
        kinds.setdefault(kind, []).append(task)
    for kind, tasks in kinds.items():
        parts.append(
            f"With task {_names(tasks, ' or ')}, entries may differ in these settings:"
            f" {_names(sorted(kind.entry_keys()))}."
        )
    parts += [
        "### Keys of measure, of a text",
        _keys(TextMeasurement),
        "### Keys of measure, of a generated task",
        _keys(GeneratedMeasurement),
        "## kinds",
        "`bipe-hf kinds FOLDER` reads one file of a comparison for each kind of text. Their keys are those of"
        " [compare](#compare). `task` must be `text`, and `measure` must have `unit_tokens`.",
    ]
    return _page(parts)


def _settings(command: str, settings: type[RunSettings]) -> list[str]:
    """The keys of a command, by the classes that hold them."""
    parts = [f"## {command}"]
    for name, arguments in settings.parts().items():
        parts += [f"### {command}: the {name}", _keys(arguments, settings.defaults, settings.reserved_keys)]
    others = settings.training_defaults()
    if others:
        parts.append(f"Other defaults of `{command}`: {', '.join(f'`{k}: {_plain(v)}`' for k, v in others.items())}.")
    parts += [
        f"### {command}: what cannot be set",
        _table(("key", "why"), ((f"`{name}`", _text(text)) for name, text in sorted(settings.reserved_keys.items()))),
    ]
    return parts


def _keys(arguments: type, defaults: Mapping[str, Any] = MappingProxyType({}), reserved: Collection[str] = ()) -> str:
    """The keys of a class, but for those that cannot be set."""
    rows = []
    for name, field in _fields_by_name(arguments).items():
        if name in reserved:
            continue
        default = defaults.get(name, field.default)
        rows.append((f"`{name}`", _type(field.type), _value(default), _text(field.metadata["help"])))
    return _table(("key", "type", "default", "what it is"), rows)


def _fields_by_name(arguments: type) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(arguments)}


def _fields_of(encoding: Any) -> str:
    fields = encoding.fields | {name: derive(TRAIN_LENGTH) for name, derive in encoding.from_train_length.items()}
    return ", ".join(f"`{name}={value!r}`" for name, value in fields.items())


def _readers(read_by: dict[str, Sequence[str]]) -> str:
    return "; ".join(f"`{name}` {', '.join(f'`{value}`' for value in values)}" for name, values in read_by.items())


def _type(annotation: Any) -> str:
    name = inspect.formatannotation(annotation).removesuffix(" | None")
    return _cell(f"`{name}`")


def _value(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "must be given"
    return "none" if value is None else _cell(f"`{_plain(value)}`")


def _plain(value: Any) -> str:
    """As YAML has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _names(names: Iterable[str], between: str = ", ") -> str:
    return between.join(f"`{name}`" for name in names)


def _sentence(text: str) -> str:
    text = _text(text)
    return f"{text[0].upper()}{text[1:]}."


def _text(text: str) -> str:
    """Words of the code as Markdown: what it would take for marks becomes text, and mappings become code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    for at in range(0, len(parts), 2):
        pieces = re.split(r"('?\{.*\}'?)", parts[at])
        pieces[::2] = [re.sub(r"([*<|]|(?<!\w)_|_(?!\w))", r"\\\1", piece) for piece in pieces[::2]]
        pieces[1::2] = [f"`{piece}`" for piece in pieces[1::2]]
        parts[at] = "".join(pieces)
    return "".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return markdown([titles, *rows], left=len(titles)).replace("  |", " |")


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join(parts) + "\n"


PAGES = {
    "reference_configuration.md": configuration_page,
    "reference_commands.md": commands_page,
    "reference_yaml.md": yaml_page,
}
"""What makes the text of each page, by the name of its file."""


if __name__ == "__main__":
    main()
