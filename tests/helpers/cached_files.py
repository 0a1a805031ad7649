"""What `datasets` keeps of prepared data."""

from bipe_hf import BipeTokenizer
from bipe_hf.lab.data import cached_tokenizer, load_documents, make_blocks, tokenize_documents


def cached_files(source: str) -> list[str]:
    """Prepares data in all ways that are cached and says where it lies."""
    documents = load_documents(source)["train"]
    tokenizer = cached_tokenizer(documents, 300)
    plain = tokenize_documents(documents, tokenizer)
    tokenizer(["a", "b c"], padding="max_length", truncation=True, max_length=8)  # leaves its marks in the tokenizer
    again = tokenize_documents(documents, tokenizer)
    wrapped = tokenize_documents(documents, BipeTokenizer.from_tokenizer(tokenizer))
    blocks = make_blocks(plain, 16, document_boundaries="keep")
    return [data.cache_files[0]["filename"] for data in (documents, plain, again, wrapped, blocks)]
