"""Which tokens each protocol scores, and the scoring."""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedModel

from ...model.errors_bipe import InputError
from ...model.segmentation_bipe import Segmenter, SegmentInputs
from ..common.checkpoints import is_bipe


STRIDE = 256
TAIL = 256
# The output layer runs on so many tokens at a time that it gives about this many logits (32 MiB in float32).
LOGITS_AT_ONCE = 2**23
# Tokens whose segments are found at once.
TOKENS_AT_ONCE = 2**20


@dataclass(frozen=True)
class Windows:
    """Windows of a stream of tokens, all of one length.

    Args:
        length: tokens in a window.
        begins (`torch.LongTensor` of shape `(windows,)`): index in the stream of each window's first token.
        firsts (`torch.LongTensor` of shape `(windows,)`):
            Index in the window of the first token that is scored, at least 1 since nothing predicts the first token;
            all after it are scored as well.
    """

    length: int
    begins: Tensor
    firsts: Tensor

    @property
    def tokens_scored(self) -> int:
        """How many tokens all windows score."""
        return int((self.length - self.firsts).sum())


def block_windows(tokens: int, length: int) -> Windows:
    """The non-overlapping windows of a stream, all scored but the first token of each.

    Args:
        tokens: in the stream.
        length: tokens in a window.
    """
    begins = torch.arange(0, tokens - length + 1, length)
    return Windows(length, begins, torch.ones_like(begins))


def tail_windows(tokens: int, length: int, tail: int = TAIL) -> Windows:
    """The non-overlapping windows of a stream, of which the last tokens are scored.

    Args:
        tokens: in the stream.
        length: tokens in a window, more than `tail`.
        tail: tokens scored in each.

    Raises:
        ValueError: `length` is too short.
    """
    if length <= tail:
        raise InputError(f"protocol tail scores the last {tail} tokens of a block: length {length} must be greater")
    begins = torch.arange(0, tokens - length + 1, length)
    return Windows(length, begins, torch.full_like(begins, length - tail))


def sliding_windows(tokens: int, length: int, stride: int = STRIDE) -> Windows:
    """The windows `stride` apart that score every token after the first exactly once.

    Args:
        tokens: in the stream.
        length: tokens in a window, more than `stride`.
        stride: tokens by which a window moves.

    Raises:
        ValueError: `length` is too short.
    """
    if length <= stride:
        raise InputError(f"protocol sliding moves its window by {stride} tokens: length {length} must be greater")
    ends = torch.arange(length, tokens + stride, stride).clamp(max=tokens)
    new_tokens = ends.diff(prepend=torch.tensor([1]))  # nothing predicts the stream's first token
    return Windows(length, ends - length, length - new_tokens)


def make_windows(protocol: str, tokens: int, length: int, stride: int = STRIDE) -> Windows:
    """The windows of a protocol over a stream of tokens.

    Args:
        protocol: one of `PROTOCOLS`.
        tokens: in the stream.
        length: tokens in a window.
        stride: tokens by which the window of `sliding` moves.

    Raises:
        ValueError: `length` is too short for it.
    """
    if protocol == "sliding":
        return sliding_windows(tokens, length, stride)
    return {"blocks": block_windows, "tail": tail_windows}[protocol](tokens, length)


def segments_per_block(config: PreTrainedConfig, ids: Tensor, windows: Windows) -> float | None:
    """The mean number of distinct segments in a window, as a model with this config divides it; None for stock models.

    Args:
        config: of the model.
        ids (`torch.LongTensor` of shape `(tokens,)`): the stream, on CPU.
        windows: of the stream.
    """
    if not is_bipe(config):
        return None
    segmenter, segments = Segmenter(config), 0
    for begins in windows.begins.split(max(1, TOKENS_AT_ONCE // windows.length)):
        blocks = ids[begins[:, None] + torch.arange(windows.length)]
        segments += int(segmenter(SegmentInputs(blocks)).segment_ids[:, -1].sum()) + len(blocks)
    return segments / len(windows.begins)


@dataclass(frozen=True)
class LossSums:
    """Negative log-likelihoods in nats of the tokens scored, in groups.

    `sums` (float64, `(groups,)`) adds them up, `counts` (long, `(groups,)`) counts the tokens.
    """

    sums: Tensor
    counts: Tensor

    @classmethod
    def zeros(cls, groups: int) -> Self:
        """Of no token yet."""
        return cls(torch.zeros(groups, dtype=torch.double), torch.zeros(groups, dtype=torch.long))

    def add(self, groups: Tensor, losses: Tensor) -> None:
        """Adds the losses (float64, `(tokens,)`) of tokens whose groups (long, `(tokens,)`) are given."""
        self.sums.index_add_(0, groups, losses)
        self.counts.add_(groups.bincount(minlength=len(self.counts)))

    @property
    def nll(self) -> float:
        """The mean over all tokens."""
        return self.sums.sum().item() / int(self.counts.sum())


@dataclass(frozen=True)
class PositionLosses(LossSums):
    """Negative log-likelihoods in nats of the tokens at each index in a window.

    `sums` (float64, `(length,)`) adds them up, `counts` (long, `(length,)`) counts the tokens; `units` has those of
    the units of the text, where it has any.
    """

    units: LossSums | None = None

    def bins(self) -> list[dict[str, int | float]]:
        """The mean `nll` and the number of `tokens` at the positions `first` to `2 * first - 1`, where there are any.

        `first` is 1, 2, 4, ...: nothing predicts the token at position 0.
        """
        bins, first = [], 1
        while first < len(self.counts):
            tokens = int(self.counts[first : 2 * first].sum())
            if tokens:
                nll = self.sums[first : 2 * first].sum().item() / tokens
                bins.append({"first": first, "tokens": tokens, "nll": nll})
            first *= 2
        return bins


def score(
    model: PreTrainedModel, ids: Tensor, windows: Windows, *, batch_tokens: int = 8192, description: str | None = None
) -> float:
    """The mean negative log-likelihood in nats of the tokens that the windows score.

    Args:
        model: a causal language model.
        ids (`torch.LongTensor` of shape `(tokens,)`): the stream, on CPU.
        windows: of the stream.
        batch_tokens: as in [`score_positions`].
        description: as in [`score_positions`].
    """
    return score_positions(model, ids, windows, batch_tokens=batch_tokens, description=description).nll


@torch.inference_mode()
def score_positions(
    model: PreTrainedModel,
    ids: Tensor,
    windows: Windows,
    *,
    units: Tensor | None = None,
    batch_tokens: int = 8192,
    description: str | None = None,
) -> PositionLosses:
    """The negative log-likelihoods of the tokens that the windows score, by their position.

    Log-probabilities are float32, their sum is float64. Logits are made for a bounded number of tokens at a time. With
    dynamic NTK scaling every window runs alone, as the first one that the model sees: the scaling follows the longest
    row of a batch and of those before it.

    Args:
        model: a causal language model.
        ids (`torch.LongTensor` of shape `(tokens,)`): the stream, on CPU.
        windows: of the stream.
        units (`torch.LongTensor` of shape `(tokens,)`, *optional*):
            The unit of each token, rising from 0, on CPU: the losses of each unit are added up as well, in the same
            pass.
        batch_tokens: `batch_tokens // length` windows, at least one, run at once.
        description: shows a progress bar.
    """
    head = model.get_output_embeddings()
    chunk = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
    scales_with_length = _has_dynamic_scaling(model.config)
    batch = 1 if scales_with_length else max(1, batch_tokens // windows.length)
    offsets = torch.arange(windows.length)
    by_position = LossSums.zeros(windows.length)
    by_unit = None if units is None else LossSums.zeros(int(units[-1]) + 1)
    with tqdm(total=len(windows.begins), desc=description, unit="block", disable=description is None) as bar:
        for begins, firsts in zip(windows.begins.split(batch), windows.firsts.split(batch), strict=True):
            blocks = ids[begins[:, None] + offsets].to(model.device)
            if scales_with_length:
                model.base_model(input_ids=blocks[:, :1], use_cache=False)  # what is short brings the scaling back
            hidden = model.base_model(input_ids=blocks, use_cache=False).last_hidden_state
            scored = offsets[1:] >= firsts[:, None]
            positions = offsets[1:].expand_as(scored)[scored]
            places = (begins[:, None] + offsets[1:])[scored]
            scored = scored.to(model.device)
            states, targets = hidden[:, :-1][scored], blocks[:, 1:][scored]
            losses = [
                F.cross_entropy(head(some_states).float(), some_targets, reduction="none")
                for some_states, some_targets in zip(states.split(chunk), targets.split(chunk), strict=True)
            ]
            losses = torch.cat(losses).cpu().double()
            by_position.add(positions, losses)
            if by_unit is not None:
                by_unit.add(units[places], losses)
            bar.update(len(begins))
        losses = PositionLosses(by_position.sums, by_position.counts, by_unit)
        bar.set_postfix(nats=f"{losses.nll:.4f}")
    return losses


def _has_dynamic_scaling(config: PreTrainedConfig) -> bool:
    rope = config.to_dict().get("rope_parameters") or {}
    by_layer_type = [each for each in rope.values() if isinstance(each, dict)]
    return any(each.get("rope_type") == "dynamic" for each in (rope, *by_layer_type))


@torch.inference_mode()
def check_output_layer(model: PreTrainedModel, ids: Tensor) -> None:
    """Raises `ValueError` for a model that does to its logits what `score` does not do (soft capping, scaling)."""
    head = model.get_output_embeddings()
    if head is None:
        raise InputError(f"{model.name_or_path}: this model has no output layer over a vocabulary")
    ids = ids[None, :16].to(model.device)
    own = model(input_ids=ids, use_cache=False).logits
    ours = head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    if (own - ours).abs().max() > 1e-3 * own.abs().max():
        raise InputError(f"{model.name_or_path}: this model changes the logits of its output layer; not supported")
