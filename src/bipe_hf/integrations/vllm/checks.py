"""What does not go together with a BiPE model in vLLM, said before anything is loaded."""

from vllm.config import ModelConfig, VllmConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from ...model.errors_bipe import InputError
from ...model.paged_bipe import check_paged, head_columns


WHAT = "vLLM"


class BipeChecks(VerifyAndUpdateConfig):
    """vLLM asks it, by the architecture of the model, while it puts its configuration together."""

    @staticmethod
    def verify_and_update_model_config(model_config: ModelConfig) -> None:
        """Raises `ValueError` for an encoding that no paged cache holds, and for a draft model."""
        config = model_config.hf_config
        if model_config.runner_type == "draft":
            raise InputError(
                f"{WHAT}: a BiPE model cannot draft for another, since a drafter gets token positions alone. Draft with"
                " a stock model of the same vocabulary, or with method 'ngram'"
            )
        check_paged(config, WHAT)

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Raises `ValueError` for a feature of vLLM that has no room for segments."""
