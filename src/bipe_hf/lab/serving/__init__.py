"""transformers' OpenAI-compatible server with one model: `bipe-hf serve`."""
