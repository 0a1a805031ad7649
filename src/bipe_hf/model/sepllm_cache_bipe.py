"""The streaming cache of SepLLM (Chen et al., ICML 2025, arXiv 2412.12094): bounded memory for any encoding."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicLayer

from .cache_bipe import SegmentHistoryLayer
from .errors_bipe import InputError
from .segmentation_bipe import SegmentState, initial_state


class Limits(NamedTuple):
    """How many tokens a row keeps.

    Args:
        initial_tokens: first tokens that stay.
        separators: separators that stay at most.
        neighbors: tokens that stay when others go, the newest included.
        capacity: tokens held at most between two forwards.
    """

    initial_tokens: int
    separators: int
    neighbors: int
    capacity: int


class Row:
    """The columns of keys that one row keeps, in the order of the cache.

    Args:
        initial: columns of the first tokens.
        separators: columns of separators that would have gone otherwise.
        others: columns of all other tokens, the newest last.
    """

    def __init__(self, initial: list[int], separators: list[int], others: list[int]):
        self.initial, self.separators, self.others = initial, separators, others

    def __len__(self) -> int:
        return len(self.initial) + len(self.separators) + len(self.others)

    def copy(self) -> "Row":
        """A row that changes by itself."""
        return Row(list(self.initial), list(self.separators), list(self.others))

    def columns(self) -> list[int]:
        """All columns that the row keeps, in the order of the cache."""
        return self.initial + self.separators + self.others

    def add(self, column: int, ended: list[int], limits: Limits) -> list[int]:
        """Takes in the column of one more token and gives back those that no later token sees.

        Where more than `capacity` are held, the last `neighbors` of the others stay; separators among the rest join
        the separators, of which the newest stay.

        Args:
            column: of the token.
            ended: for every column 1 at separators, else 0.
            limits: how many tokens the row keeps.

        Returns:
            The columns that go, sorted.
        """
        (self.initial if len(self.initial) < limits.initial_tokens else self.others).append(column)
        if len(self) <= limits.capacity:
            return []
        before = self.columns()
        left, self.others = self.others[: -limits.neighbors], self.others[-limits.neighbors :]
        self.separators += [each for each in left if ended[each]]
        self.separators = self.separators[max(len(self.separators) - limits.separators, 0) :]
        return sorted(set(before) - set(self.columns()))

    def moved(self, end: int) -> "Row":
        """The same in columns that follow each other up to `end`, that one excluded."""
        columns, initial = list(range(end - len(self), end)), len(self.initial)
        others = len(self) - len(self.others)
        return Row(columns[:initial], columns[initial:others], columns[others:])

    def without_last(self, tokens: int) -> "Row":
        """A row that has dropped nothing, without its last tokens."""
        columns = self.columns()
        columns = columns[: max(len(columns) - tokens, 0)]
        return Row(columns[: len(self.initial)], [], columns[len(self.initial) :])


class Coming(NamedTuple):
    """What a forward finds in the cache, and leaves there."""

    states: torch.Tensor
    """Of the keys that are held and those of new tokens: `torch.LongTensor` of shape
    `(batch, keys, 4 + 2 * inner levels)`."""
    last_query: torch.Tensor
    """`torch.LongTensor` of shape `(batch, keys)`: the column of the last query that sees a key; -1: none does."""
    sees_all: bool
    """Whether every query sees all keys that are held and those before it."""
    rows: list[Row]
    """What each row keeps."""
    keep: torch.Tensor | None
    """`torch.LongTensor` of shape `(batch, kept keys)`: their columns, -1 on the left where other rows keep more. None
    where all stay as they are."""
    drops: bool
    """Whether a token was dropped, or padding that came behind one."""


class SepLLMHistoryLayer(SegmentHistoryLayer):
    """Keeps the segment states of the tokens that are kept, and decides which these are.

    Args:
        limits: how many tokens a row keeps.
    """

    is_croppable = False

    def __init__(self, limits: Limits):
        super().__init__()
        self.limits = limits
        self.reset()

    def reset(self) -> None:
        super().reset()
        self.seen, self.rows, self.has_dropped = 0, None, False
        self.keep: torch.Tensor | None = None
        self.of_forward: torch.Tensor | None = None  # states of the keys that this forward sees
        self._coming: tuple[SegmentState, Coming] | None = None

    def coming(self, state: SegmentState) -> Coming:
        """What a forward will do that brings these new tokens: as if they came one by one.

        Args:
            state ([`SegmentState`]): after the new tokens, entries of shape `(batch, new tokens)`.
        """
        if self._coming is None or self._coming[0] is not state:
            self._coming = state, self._plan(state)
        return self._coming[1]

    def _plan(self, state: SegmentState) -> Coming:
        states = super().with_new(state)
        batch_size, columns = states.shape[:2]
        held = columns - state.token_position.shape[1]
        keys = SegmentState.from_columns(states.unbind(-1))
        # Padding repeats the state of the token before it.
        first = keys.token_position[:, held - 1 : held] if held else torch.full_like(state.token_position[:, :1], -1)
        is_token = state.token_position != torch.cat([first, state.token_position[:, :-1]], dim=1)
        is_token, ended = is_token.tolist(), keys.ended.tolist()

        rows = [row.copy() for row in self.rows or [Row([], [], [])] * batch_size]
        last_query, drops = [[-1] * columns for _ in rows], False
        for row, last, is_token_of_row, ended_of_row in zip(rows, last_query, is_token, ended, strict=True):
            for column in row.columns():
                last[column] = columns
            for column, is_token_here in enumerate(is_token_of_row, start=held):
                if is_token_here:
                    last[column] = columns
                    for gone in row.add(column, ended_of_row, self.limits):
                        last[gone], drops = column, True
                elif len(row):
                    drops = True

        width = max(map(len, rows))
        stays = width == columns and all(row.columns() == row.moved(width).columns() for row in rows)
        keep = None
        if not stays:
            keep = torch.tensor([[-1] * (width - len(row)) + row.columns() for row in rows], device=states.device)
            keep = keep.view(batch_size, width).long()  # an empty one has neither
        return Coming(
            states,
            torch.tensor(last_query, device=states.device),
            all(min(last) >= columns - 1 for last in last_query),
            [row.moved(width) for row in rows],
            keep,
            drops,
        )

    def with_new(self, state: SegmentState) -> torch.Tensor:
        return self.coming(state).states

    def append(self, state: SegmentState) -> None:
        coming = self.coming(state)
        self._coming = None
        self.rows, self.keep, self.of_forward = coming.rows, coming.keep, coming.states
        self.has_dropped = self.has_dropped or coming.drops
        self.states = coming.states
        if self.keep is not None:
            before_any = initial_state(1, self.states.device, len(state.inner))
            self.states = take_columns(self.states, self.keep, torch.stack(before_any.columns(), dim=-1))
        self.seen += state.token_position.shape[1]
        self.is_initialized = True

    def segment_ids(self) -> torch.Tensor:
        return self.of_forward[..., 0]

    def append_of_layer(self, layer_idx: int | str, states: torch.Tensor) -> None:
        super().append_of_layer(layer_idx, states)
        if self.keep is not None:
            states = self.layer_states[layer_idx]
            self.layer_states[layer_idx] = take_columns(states, self.keep.to(states.device), states.new_zeros(()))

    def crop(self, tokens_to_remove: int) -> None:
        """Takes columns from the end.

        Raises:
            ValueError: if a token was dropped, or padding that came behind one: what stood there is gone.
        """
        if tokens_to_remove == 0 or self.states is None:
            return
        self.check_crop()
        super().crop(tokens_to_remove)
        self.seen += max(tokens_to_remove, -self.seen)
        rows = [row.without_last(-tokens_to_remove) for row in self.rows]
        self.rows = [row.moved(self.states.shape[1]) for row in rows]

    def check_crop(self) -> None:
        """Raises `ValueError` where [`SepLLMHistoryLayer.crop`] cannot be done."""
        if self.has_dropped:
            raise InputError(
                f"crop: the SepLLMCache has dropped some of its {self.seen} tokens, so what it held before the last of"
                " them is gone. Crop before its capacity is reached, or use a DynamicCache"
            )

    def _change(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super()._change(change)
        self._coming = None

    def _select(self, rows: torch.Tensor) -> None:
        super()._select(rows)
        if self.rows is not None:
            self.rows = [self.rows[row] for row in rows.tolist()]

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self.rows is not None:
            self.rows = [row for row in self.rows for _ in range(repeats)]

    def get_seq_length(self) -> int:
        return self.seen


class SepLLMLayer(DynamicLayer):
    """Keys and values of the tokens that are kept; a forward sees those that are held and its own."""

    is_croppable = False

    def __init__(self):
        super().__init__()
        self.history: SepLLMHistoryLayer | None = None  # set by the cache
        self.cumulative_length = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = super().update(key_states, value_states)
        self.cumulative_length += key_states.shape[-2]
        if self.history.keep is not None:
            keep = self.history.keep.to(keys.device)[:, None]
            self.keys, self.values = (take_columns(each, keep, each.new_zeros(())) for each in (keys, values))
        return keys, values

    def get_seq_length(self) -> int:
        """How many tokens came, those included that were dropped."""
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        held = self.keys.shape[-2] if self.is_initialized else 0
        return held + query_length, self.cumulative_length - held

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove == 0:
            return
        self.history.check_crop()
        super().crop(tokens_to_remove)
        self.cumulative_length += max(tokens_to_remove, -self.cumulative_length)


class SepLLMCache(Cache):
    """A cache of bounded size for models whose segments end at separators, whatever their encoding.

    It is the streaming cache of SepLLM (Chen et al., ICML 2025, arXiv 2412.12094). It holds the first tokens, the
    newest separators and, as they come, all other tokens. When these are more than `capacity` after a token, of the
    others the last `neighbors` stay; separators among those that go join the separators, of which the newest stay.
    Tokens that come in one forward see what they would see one by one, so that how a prompt is cut changes nothing.
    Each row of a batch counts its own tokens, padding none.

    Keys stay as they were turned, with the segments and tokens of the whole text: nothing is numbered anew. (The
    authors turn keys by their place in the cache, since RoPE knows no token beyond its train length.) Rows of a batch
    may be reordered, repeated and selected. `crop` works until the first token is dropped, assisted decoding does not.

    `model.generate(**inputs, past_key_values=SepLLMCache(model.config))`

    Args:
        config ([`~transformers.PreTrainedConfig`]): of the model.
        initial_tokens (`int`, *optional*, defaults to 4): first tokens that stay.
        separators (`int`, *optional*, defaults to 64): separators that stay at most.
        neighbors (`int`, *optional*, defaults to 256): tokens that stay when others go, the newest included.
        capacity (`int`, *optional*, defaults to 800): tokens held at most between two forwards.

    Raises:
        ValueError: if `capacity` is below the sum of the others, or one of them is too small; in a forward, if the
            model has no separators, if its encoding changes finished logits (`cope`, `dape`, `hirope`, ...), if it has
            local layers, or for an attention backend that cannot hide single keys.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        initial_tokens: int = 4,
        separators: int = 64,
        neighbors: int = 256,
        capacity: int = 800,
    ):
        for name, given, least in (
            ("initial_tokens", initial_tokens, 0),
            ("separators", separators, 0),
            ("neighbors", neighbors, 1),
            ("capacity", capacity, initial_tokens + separators + neighbors),
        ):
            if given < least:
                of_others = ", the sum of initial_tokens, separators and neighbors" if name == "capacity" else ""
                raise InputError(f"{name} must be at least {least} tokens{of_others}, got {given}")
        num_layers = config.get_text_config(decoder=True).num_hidden_layers
        layers = [SepLLMLayer() for _ in range(num_layers)]
        limits = Limits(initial_tokens, separators, neighbors, capacity)
        self.history = SepLLMHistoryLayer(limits)
        for layer in layers:
            layer.history = self.history
        super().__init__(layers=[*layers, self.history])

    @property
    def first_column(self) -> int:
        """How many of the tokens that came have no key any more; what transformers calls the offset of the keys."""
        return self.get_mask_sizes(0, 0)[1]

    def sees(self, state: SegmentState) -> Callable | None:
        """Which keys a token sees, by columns of those that are held and those of new tokens.

        Args:
            state ([`SegmentState`]): after the new tokens, entries of shape `(batch, new tokens)`.

        Returns:
            A function of row, head, query and key. None where every token sees all that are held.
        """
        coming = self.history.coming(state)
        if coming.sees_all:
            return None
        last_query = coming.last_query
        return lambda row, head, query, key: query <= last_query[row, key]


def take_columns(tensor: torch.Tensor, keep: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """The columns of a tensor by their numbers, something else where there is none.

    Args:
        tensor (`torch.Tensor` of shape `(..., columns, numbers)`): of any dtype.
        keep (`torch.LongTensor` of shape `(..., kept columns)`): numbers of columns; -1 where there is none.
        otherwise (`torch.Tensor` of shape `()` or `(..., 1, numbers)`):
            What stands there then, of the dtype of `tensor`.

    Returns:
        Of shape `(..., kept columns, numbers)`.
    """
    columns = tensor.take_along_dim(keep.clamp(min=0)[..., None], dim=-2)
    return torch.where(keep[..., None] < 0, otherwise, columns)
