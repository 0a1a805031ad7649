"""Training on short texts with the indices of long ones: collators that add `segment_ids` to the batches of another.

A model with an inter encoding tells segments apart by their indices (with `segmentation="tokens"`, which is plain RoPE
or ALiBi, tokens). Blocks of the train length show it the first few of them only. Both collators here spread the
indices of a block over a range `extension` times as large, and leave everything else as it was: intra positions, which
the model takes from where the indices change, labels, masks.

```python
trainer = SFTTrainer(model, ...)
trainer.data_collator = StretchedIndices(trainer.data_collator, model.config, extension=8.0)
trainer.add_callback(trainer.data_collator)  # other draws in every pass over the data
```

`Trainer` measures with its collator, too: measure such a model with a trainer of its own, or with `bipe-hf evaluate`.
`bipe-hf pretrain` (`index_stretch`, `index_skip`) extends the indices of training batches only.
"""

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, TrainerCallback

from ...model.configuration_bipe import BipeConfigMixin
from ...model.errors_bipe import InputError
from .segments import segment_batch


class IndexExtension(TrainerCallback, ABC):
    """Base of the collators: calls another one, and gives its batch indices that each document draws for itself.

    A draw follows from `seed`, the pass over the data and the tokens of the document, and from nothing else. So there
    is no state to restore when training resumes, and neither the number of workers and processes nor the size of a
    batch matters.

    Also a `TrainerCallback`, which counts the passes: without it, every pass repeats the draws of the first one.

    Args:
        collator: makes a batch with `input_ids`, a `torch.LongTensor` of shape `(batch, length)`, and perhaps a 2-D
            `attention_mask`, `position_ids` that restart with each packed document, and `segment_ids`.
        config: of the model, with its separators.
        extension: the indices 0 to n - 1 of a document become n of those below `extension * n`. Above 1.
        seed: not negative.

    Raises:
        ValueError: the model has no indices to extend, or `extension` is not above 1.
    """

    def __init__(self, collator: Callable, config: PreTrainedConfig, extension: float, *, seed: int = 0) -> None:
        check_extendable(config)
        check_extension("extension", extension)
        self.collator = collator
        self.config = config
        self.extension = extension
        self.seed = seed
        # Shared with the workers of a data loader, which may outlive a pass.
        self.passes = torch.zeros((), dtype=torch.long).share_memory_()

    @abstractmethod
    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """The new indices in place of 0 to `count` - 1.

        Args:
            count: how many there are.
            generator: of the document.

        Returns:
            int64 array of shape `(count,)`, strictly increasing from 0, below `extension * count`.
        """

    def __call__(self, examples: list[Any]) -> dict[str, torch.Tensor]:
        """The batch of `collator` with `segment_ids`.

        They are a `torch.LongTensor` of shape `(batch, length)`, -1 at padding, or `(batch, length, levels)` where the
        model has inner levels, whose indices stay.

        Raises:
            ValueError: the batch has no `input_ids`.
        """
        batch = self.collator(examples)
        if "input_ids" not in batch:
            raise InputError(f"collator must give batches with input_ids, got {', '.join(batch)}")
        segments = segment_batch(batch, self.config)
        is_token = segments.segment_ids >= 0
        document = (is_token & (segments.token_positions == 0)).cumsum(dim=1)
        ids = segments.ids().clone()
        segment_ids = ids if ids.ndim == 2 else ids[..., 0]
        for row in range(len(document)):
            for number in document[row, is_token[row]].unique():
                places = is_token[row] & (document[row] == number)
                tokens = zlib.crc32(batch["input_ids"][row, places].numpy().tobytes())
                generator = np.random.default_rng((self.seed, int(self.passes), tokens))
                indices = segment_ids[row, places]
                segment_ids[row, places] = torch.from_numpy(self.draw(int(indices.max()) + 1, generator))[indices]
        return {**batch, "segment_ids": ids}

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.passes.fill_(int(state.epoch or 0) - 1)

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.passes += 1


class StretchedIndices(IndexExtension):
    """Indices times one random factor, uniform between 1 and `extension`, rounded down.

    After the randomised positional encodings of Ruoss et al. (ACL 2023, arXiv 2305.16843), who draw any n of the
    larger range, in order: there the gaps between neighbours differ inside a text, here they are alike (but for
    rounding), so that a text looks as if all of it were `factor` times as long.

    Args:
        collator: makes the batch, as [`IndexExtension`] says.
        config: of the model, with its separators.
        extension: largest factor, above 1.
        seed: of the draws, not negative.

    Raises:
        ValueError: the model has no indices to extend, or `extension` is not above 1.
    """

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return np.floor(np.arange(count) * generator.uniform(1, self.extension)).astype(np.int64)


class SkippedIndices(IndexExtension):
    """Chunks of consecutive indices, with random skips between them: PoSE (Zhu et al., ICLR 2024, arXiv 2309.10400).

    The borders of the chunks are any of those between segments. The skip before a chunk is uniform between that of the
    chunk before and the largest that keeps all indices in range, as in the paper; the first chunk starts at 0. The
    text itself is a whole one: the paper also lets chunks come from different places of a longer text.

    Args:
        collator: makes the batch, as [`IndexExtension`] says.
        config: of the model, with its separators.
        extension: how many times as many indices the skips spread a document over, above 1.
        chunks: into which a document is cut; fewer where it has fewer segments. At least 2.
        seed: of the draws, not negative.

    Raises:
        ValueError: the model has no indices to extend, `extension` is not above 1, or `chunks` is below 2.
    """

    def __init__(
        self, collator: Callable, config: PreTrainedConfig, extension: float, *, chunks: int = 2, seed: int = 0
    ) -> None:
        super().__init__(collator, config, extension, seed=seed)
        if chunks < 2:
            raise InputError(f"chunks must be at least 2, between which indices are skipped, got {chunks}")
        self.chunks = chunks

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        borders = np.sort(1 + generator.permutation(count - 1)[: self.chunks - 1])
        largest = math.ceil(self.extension * count) - count  # puts the last index just below extension * count
        indices = np.arange(count)
        skip = 0
        for border in borders:
            skip = generator.integers(skip, largest, endpoint=True)
            indices[border:] = np.arange(border, count) + skip
        return indices


def check_extendable(config: PreTrainedConfig) -> None:
    """Refuses the configuration of a model that does not tell segments apart.

    Raises:
        ValueError: says why it does not.
    """
    if not isinstance(config, BipeConfigMixin):
        raise InputError(
            f"a model of type {config.model_type} takes no segment_ids, so no index can be extended; plain RoPE is"
            " bipe_llama or bipe_gpt_neox with segmentation tokens and intra_encoding none"
        )
    if config.inter_encoding == "none":
        raise InputError("a model with inter_encoding none has no index to extend")
    if {"rope", "local"} & set(config.layer_encodings):
        raise InputError("layer_encodings has layers that count tokens, of which no index is extended")
    if config.inter_encoding == "hybrid" and config.hybrid_slow_pairs == "none" and config.hybrid_alibi_scale == 0:
        raise InputError("a hybrid with hybrid_slow_pairs none and hybrid_alibi_scale 0 has no index to extend")
    if config.segmentation == "document":
        raise InputError("with segmentation document every index is 0, so there is none to extend")
    if config.segmentation == "separators" and not config.separator_token_ids:
        raise InputError("without separator_token_ids every index is 0, so there is none to extend")


def check_extension(name: str, extension: float) -> None:
    """Refuses an extension that extends nothing, or without end.

    Raises:
        ValueError: starts with `name`.
    """
    if not 1 < extension < math.inf:
        raise InputError(f"{name}: {extension} given, a number above 1 is needed")
