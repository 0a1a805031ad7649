"""vLLM's attention over a paged cache, with the terms of an inter encoding."""

from collections.abc import Callable

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig
from vllm.config import CacheConfig
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.quantization import QuantizationConfig
from vllm.v1.attention.selector import get_attn_backend

from ...model.alibi_bipe import is_16_bit, kernel_scalings
from ...model.attention_bipe import apply_terms
from ...model.inter_terms_bipe import InterTerms
from ...model.paged_bipe import head_columns


class BipeAttention(Attention):
    """Attention of the heads of one tensor-parallel rank.

    Keys and values in the cache are wider than a head by the bias columns, and by zeros where the kernel has no such
    width. The slopes of ALiBi differ from head to head: a rank takes those of its own.

    Args:
        config: of the model.
        num_heads: of this rank.
        num_kv_heads: of this rank.
        head_dim: of a head without columns.
        rotate: the family's `apply_rotary_pos_emb`.
        cache_config: as vLLM's own.
        quant_config: as vLLM's own.
        prefix: as vLLM's own.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        rotate: Callable,
        *,
        cache_config: CacheConfig | None,
        quant_config: QuantizationConfig | None,
        prefix: str,
    ):
        dtype = torch.get_default_dtype()  # that of the model, while vLLM builds it
        num_columns = head_columns(config, head_dim, dtype)
        scaling = kernel_scalings(head_dim)[is_16_bit(dtype)] if num_columns else head_dim**-0.5
        cache_dtype = "auto" if cache_config is None else cache_config.cache_dtype
        super().__init__(
            num_heads,
            width_of_kernel(head_dim + num_columns, dtype, cache_dtype),
            scaling,
            num_kv_heads=num_kv_heads,
            cache_config=cache_config,
            quant_config=quant_config,
            prefix=prefix,
        )
        self.head_dim = head_dim
        self.rotate = rotate
        first = get_tensor_model_parallel_rank() * num_heads
        self.own_heads = slice(first, first + num_heads)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, terms: InterTerms) -> torch.Tensor:
        """The attention of a flat batch.

        Args:
            query (`torch.FloatTensor` of shape `(tokens, heads * head_dim)`): as projected.
            key (`torch.FloatTensor` of shape `(tokens, key heads * head_dim)`): as projected.
            value (`torch.FloatTensor` of shape `(tokens, key heads * head_dim)`): as projected.
            terms ([`InterTerms`]): of all heads.

        Returns:
            `torch.FloatTensor` of shape `(tokens, heads * head_dim)`.
        """
        if terms.columns is not None:
            columns = terms.columns._replace(query=terms.columns.query[:, self.own_heads])
            terms = terms._replace(columns=columns)
        by_head = [x.unflatten(-1, (-1, self.head_dim)).transpose(0, 1)[None] for x in (query, key, value)]
        of_kernel = [self._of_kernel(x) for x in apply_terms(terms, *by_head, self.rotate)]
        output = super().forward(*of_kernel)
        return output.unflatten(-1, (-1, self.head_size))[..., : self.head_dim].flatten(1)

    def _of_kernel(self, by_head: torch.Tensor) -> torch.Tensor:
        """`(1, heads, tokens, width)` to `(tokens, heads, head_size)`, with zeros behind."""
        return F.pad(by_head, (0, self.head_size - by_head.shape[-1]))[0].transpose(0, 1).contiguous()


def width_of_kernel(width: int, dtype: torch.dtype, cache_dtype: str) -> int:
    """The narrowest head that the attention kernel of the platform takes.

    Args:
        width: numbers that the head must hold.
        dtype: in which attention computes.
        cache_dtype: of the cache, as vLLM names it.
    """
    sizes = get_attn_backend(width, dtype, cache_dtype).get_supported_head_sizes()
    return min((size for size in sizes if size >= width), default=width)
