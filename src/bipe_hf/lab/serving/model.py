"""The one model of a server, in the form in which transformers' server asks for models."""

import json
from collections.abc import AsyncIterator

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cli.serving.model_manager import ModelManager


class OneModel(ModelManager):
    """A model that is loaded before the server starts, and stays.

    transformers looks a class up by its name among its own, so it loads none from outside; here nothing is looked up.

    Args:
        name: what clients call it.
        model: ready to write.
        tokenizer: a fast one.
    """

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        self.force_model, self.model, self.tokenizer = name, model, tokenizer

    @staticmethod
    def process_model_name(model_id: str) -> str:
        return model_id

    def load_model_and_processor(self, *args, **kwargs) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        return self.model, self.tokenizer

    async def load_model_streaming(self, model_id_and_revision: str, **kwargs) -> AsyncIterator[str]:
        """Says of this model that it is ready, and of any other that it is not here."""
        event = {"status": "ready", "model": model_id_and_revision, "cached": True}
        if model_id_and_revision != self.force_model:
            event = {"status": "error", "model": model_id_and_revision, "message": f"only {self.force_model} is here"}
        yield f"data: {json.dumps(event)}\n\n"

    def list_models(self) -> list[dict]:
        """The one model, as the server lists models."""
        return [{"id": self.force_model, "object": "model", "created": 0, "owned_by": "local"}]

    get_gen_models = list_models  # its name up to transformers 5.23

    def shutdown(self) -> None:
        """Nothing: the model goes with the process."""
