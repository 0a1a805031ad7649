"""A trained model on the Hub: what goes there, and that it comes there in one piece."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the HTTP client, whichever this version of huggingface_hub stands on
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..model.configuration_bipe import BipeConfigMixin
from ..model.errors_bipe import InputError, InputNotFoundError, InputOSError
from ..model.modeling_bipe_gpt_neox import AUTO_CLASSES as GPT_NEOX_CLASSES
from ..model.modeling_bipe_llama import AUTO_CLASSES as LLAMA_CLASSES
from ..model.version_bipe import __version__
from .card_file import CARD_FILE, is_ours, write_card_to_push, write_model_card
from .records import EVALUATION_FILE, FIGURE_FILE, ORIGIN_FILE, TRAINING_FILES, read_record


MODEL_CLASSES = {each.__name__: each for each in (*LLAMA_CLASSES.values(), *GPT_NEOX_CLASSES.values())}

# What a model has only sometimes. Left from another one, `from_pretrained` would mix the two.
_OPTIONAL_FILES = re.compile(
    r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?"
    r"|generation_config\.json|chat_template\.jinja"
)


@dataclass(frozen=True)
class Pushed:
    """Where a model is now, and the paths of its files there."""

    url: str
    """Of the repository, its branch or the pull request."""
    files: list[str]
    """Everything that was pushed, whether it is new there or not."""
    removed: list[str]
    """Files of an earlier model that this one has not."""


def push(
    folder: Path,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    evaluation: dict[str, Any] | None = None,
    figure: Path | None = None,
    create_pr: bool = False,
) -> Pushed:
    """Puts a model with its tokenizer, code and card on the Hub, in one commit.

    Everything is checked before the Hub is asked for anything. Only files of the model leave the folder: no optimizer
    state, checkpoint or log.

    Args:
        folder: of a checkpoint that was opened, so that no shard is missing, with `*.safetensors`.
        config: of the model.
        tokenizer: of the model.
        repo: `owner/name`, or `name` for one's own; created where it does not exist.
        private: create it as a private repository.
        revision: branch to push to, made where it does not exist; `main` by default.
        message: of the commit.
        evaluation: what `bipe-hf evaluate` found of this model, to go along.
        figure: PNG to go along with it.
        create_pr: open a pull request instead of changing the repository, which must exist.

    Returns:
        Where the model is now.

    Raises:
        FileNotFoundError, ValueError: bad arguments; a folder that is no complete BiPE model; `private` where the
            repository is public; `create_pr` where there is none.
        OSError: no token, or one that the Hub refuses; no permission; no connection. A new repository or branch may be
            there then, but no part of the model: a commit is there as a whole or not at all.
    """
    _check_repo(repo)
    if create_pr and revision is not None:
        raise InputError("revision: a pull request is opened against main, give either a revision or create_pr")
    weights = _check_model(folder, config)
    with tempfile.TemporaryDirectory() as temporary:
        staging = Path(temporary)
        _stage(folder, config, tokenizer, weights, staging)
        if evaluation is not None:
            text = json.dumps(evaluation, indent=2, allow_nan=False) + "\n"
            (staging / EVALUATION_FILE).write_text(text, encoding="utf-8")
        if figure is not None:
            _stage_figure(figure, staging)
        with _errors_in_one_line(repo):
            api = HfApi(library_name="bipe-hf", library_version=__version__)
            repo = _open_repository(api, repo, private=private, create_pr=create_pr)
            return _commit(api, repo, staging, revision, message or f"Upload {_architecture(config)}", create_pr)


def _check_repo(repo: str) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"repository {repo!r}: give owner/name, or name for one of your own ({error})") from error


def _architecture(config: PreTrainedConfig) -> str:
    return (config.architectures or ["none"])[0]


def _check_model(folder: Path, config: PreTrainedConfig) -> list[Path]:
    """The files of the weights, which are complete and fit the config; their headers are read, not the weights."""
    if not isinstance(config, BipeConfigMixin):
        raise InputError(f"model {folder}: its config says {config.model_type}, not one of this package")
    architecture = _architecture(config)
    if architecture not in MODEL_CLASSES:
        raise InputError(f"model {folder}: its config names no class of this package (architectures: {architecture})")
    weights = _weight_files(folder)
    try:
        _, report = MODEL_CLASSES[architecture].from_pretrained(
            folder, device_map="meta", ignore_mismatched_sizes=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"model {folder}: its weights cannot be read ({_first_line(error)})") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            raise InputError(
                f"model {folder}: its weights do not fit its config, {kind.replace('_', ' ')} "
                f"{', '.join(map(str, sorted(report[kind])[:3]))}"
            )
    return weights


def _weight_files(folder: Path) -> list[Path]:
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return [folder / SAFE_WEIGHTS_NAME]
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():
        raise InputNotFoundError(f"model {folder}: there is neither {SAFE_WEIGHTS_NAME} nor {SAFE_WEIGHTS_INDEX_NAME}")
    shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return [index, *(folder / shard for shard in shards)]


def _stage(
    folder: Path,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    weights: Sequence[Path],
    staging: Path,
) -> None:
    """Lays out what will be in the repository; the weights are links."""
    for file in weights:
        (staging / file.name).symlink_to(file.resolve())
    # Written anew, with the code of this version, whatever version the folder was saved by.
    config.save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    for name in (GENERATION_CONFIG_NAME, *TRAINING_FILES, ORIGIN_FILE, CARD_FILE):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, staging / name)


def _stage_figure(file: Path, staging: Path) -> None:
    if not file.is_file():
        raise InputNotFoundError(f"there is no figure {file}")
    if not file.read_bytes().startswith(b"\x89PNG\r\n"):
        raise InputError(f"figure {file}: this is no PNG")
    shutil.copyfile(file, staging / FIGURE_FILE)


def _open_repository(api: HfApi, repo: str, *, private: bool, create_pr: bool) -> str:
    """The full name of the repository, which exists afterwards."""
    user = api.whoami()["name"]
    repo = repo if "/" in repo else f"{user}/{repo}"
    found = _find_repository(api, repo)
    if found is None:
        if create_pr:
            raise InputError(f"create_pr: there is no repository {repo} that {user} can see; without it, one is made")
        return api.create_repo(repo, private=private or None).repo_id  # None: as the organization has it
    if private and not found.private:
        raise InputError(
            f"private: {repo} exists and is public, and a push does not change that: make it private in its settings "
            f"({api.endpoint}/{repo}/settings), or leave private out"
        )
    return repo


def _find_repository(api: HfApi, repo: str) -> ModelInfo | None:
    try:
        return api.model_info(repo)
    except RepositoryNotFoundError:
        return None


def _commit(api: HfApi, repo: str, staging: Path, revision: str | None, message: str, create_pr: bool) -> Pushed:
    if revision is not None and not revision.startswith("refs/pr/"):
        api.create_branch(repo, branch=revision, exist_ok=True)
    present = sorted(api.list_repo_files(repo, revision=revision))
    card = staging / CARD_FILE
    if card.is_file() and CARD_FILE in present and is_ours(card.read_text(encoding="utf-8")):
        card.unlink()  # the one that is there may be somebody's own, and is renewed where it is not
    write_card_to_push(staging, repo, partial(write_model_card, with_records=True), token=None, revision=revision)
    files = sorted(str(file.relative_to(staging)) for file in staging.rglob("*") if file.is_file())
    gone = [path for path in present if path not in files]
    removed = [path for path in gone if _OPTIONAL_FILES.fullmatch(path)] + _stale_records(api, repo, revision, gone)
    # Not `upload_folder`, which spreads large models over several commits: in between, there would be half a model.
    commit = api.create_commit(
        repo,
        [CommitOperationAdd(path, staging / path) for path in files]
        + [CommitOperationDelete(path) for path in removed],
        commit_message=message,
        revision=revision,
        create_pr=create_pr,
    )
    url = commit.pr_url or f"{api.endpoint}/{repo}" + (f"/tree/{revision}" if revision else "")
    return Pushed(url, files, removed)


def _stale_records(api: HfApi, repo: str, revision: str | None, gone: Sequence[str]) -> list[str]:
    """What an earlier push recorded of weights that are replaced now; files of other programs are no records."""
    with tempfile.TemporaryDirectory() as folder:
        stale = [
            name
            for name in (*TRAINING_FILES, ORIGIN_FILE, EVALUATION_FILE)
            if name in gone
            and read_record(Path(api.hf_hub_download(repo, name, revision=revision, local_dir=folder))) is not None
        ]
    return stale + [FIGURE_FILE] * (EVALUATION_FILE in stale and FIGURE_FILE in gone)


@contextmanager
def _errors_in_one_line(repo: str) -> Iterator[None]:
    """The client's errors are pages long, and some are no `OSError`."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise InputOSError(f"not logged in to {constants.ENDPOINT}: run `hf auth login`, or set HF_TOKEN") from error
    except OfflineModeIsEnabled as error:
        raise InputOSError("HF_HUB_OFFLINE is set: nothing can be pushed without the network") from error
    except HfHubHTTPError as error:
        raise InputOSError(f"repository {repo}: {_refusal(error)}") from error
    except HTTPError as error:
        raise InputOSError(f"{_broken_off(repo)} ({error})") from error
    except LocalEntryNotFoundError as error:  # how a download fails, with the reason as its cause
        raise InputOSError(f"{_broken_off(repo)} ({_first_line(error.__cause__ or error)})") from error
    except RuntimeError as error:  # how the upload of a large file fails, with the reason as its cause
        if isinstance(error.__cause__, HfHubHTTPError):
            raise InputOSError(f"repository {repo}: {_refusal(error.__cause__)}") from error
        raise InputOSError(f"{_broken_off(repo)} ({error.__cause__ or error})") from error


def _broken_off(repo: str) -> str:
    return f"repository {repo}: the connection to {constants.ENDPOINT} failed, run the same command again"


def _refusal(error: HfHubHTTPError) -> str:
    said = error.server_message or _first_line(error)
    if error.response.status_code == 401:
        return "the Hub refuses the token: run `hf auth login --force`, or correct HF_TOKEN, which goes first"
    if error.response.status_code == 403:
        return (
            f"the token may not write there ({said}): log in with one that may (`hf auth login`), or open a pull "
            "request where the repository exists (--create-pr)"
        )
    return f"the Hub refuses ({said})"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
