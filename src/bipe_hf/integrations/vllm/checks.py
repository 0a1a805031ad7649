"""What does not go together with a BiPE model in vLLM, said before anything is loaded."""

from vllm.config import ModelConfig, VllmConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype

from ...model.errors_bipe import InputError
from ...model.paged_bipe import check_paged, head_columns


class BipeChecks(VerifyAndUpdateConfig):
    """vLLM asks it, by the architecture of the model, while it puts its configuration together."""

    @staticmethod
    def verify_and_update_model_config(model_config: ModelConfig) -> None:
        """Raises `ValueError` for a model that vLLM cannot run, and for a draft model."""
        config = model_config.hf_config
        check_paged(config, "vLLM")
        if model_config.runner_type == "draft":
            raise InputError(
                "vLLM: a BiPE model cannot draft for another, since vLLM tells drafters token positions alone. Draft"
                " with method 'ngram', or with a stock model of the same vocabulary (docs/vllm.md)"
            )
        if config.inter_encoding == "xpos":
            raise InputError(
                "vLLM: inter_encoding='xpos' has to look at the largest segment index of every step. Use generate with"
                " a padded batch"
            )

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Raises `ValueError` for a feature of vLLM that has no room for segments."""
        model_config, cache_config = vllm_config.model_config, vllm_config.cache_config
        if not vllm_config.use_v2_model_runner:
            raise InputError(
                "vLLM: BiPE needs the V2 model runner, which can keep the segments of requests. Install Triton, unset"
                " VLLM_USE_V2_MODEL_RUNNER and leave out what vLLM's warning says that V2 does not support"
                " (docs/vllm.md)"
            )
        if model_config.enable_prompt_embeds:
            raise InputError(
                "vLLM: enable_prompt_embeds: segments cannot be read from embeddings. Send token ids or text"
            )
        num_columns = head_columns(model_config.hf_config, model_config.get_head_size(), model_config.dtype)
        cache_dtype = kv_cache_dtype_str_to_dtype(cache_config.cache_dtype, model_config)
        if num_columns and cache_dtype != model_config.dtype:
            raise InputError(
                f"vLLM: kv_cache_dtype={cache_config.cache_dtype!r} would round the bias columns that inter_encoding="
                f"{model_config.hf_config.inter_encoding!r} writes into the keys. Use kv_cache_dtype 'auto'"
            )
        transfer = vllm_config.kv_transfer_config
        if transfer is not None and transfer.kv_load_failure_policy == "recompute":
            raise InputError(
                "vLLM: kv_load_failure_policy='recompute' goes back further in a request than its last tokens, whose"
                " segments are all that is kept. Use kv_load_failure_policy 'fail'"
            )
        if vllm_config.parallel_config.prefill_context_parallel_size > 1:
            raise InputError(
                "vLLM: prefill_context_parallel_size: segments are counted over the whole prompt, of which a rank"
                " would see a part. Use tensor_parallel_size"
            )
