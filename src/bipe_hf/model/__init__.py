"""The model and its tokenizer: flat siblings, all of which travel with a checkpoint."""
