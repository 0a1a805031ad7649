"""From text to training blocks: documents, a tokenizer for them, token ids, blocks of the train length.

```python
documents = load_documents("python")
tokenizer = cached_tokenizer(documents["train"], vocab_size=4096)
blocks = make_blocks(tokenize_documents(documents["train"], tokenizer), length=256)
```

Loading, caching, streaming and progress bars are those of `datasets`; the tokenizer is one of `tokenizers`.
"""

from .blocks import make_blocks
from .corpora import DEFAULT_CORPUS, all_documents, load_documents
from .formats import read_text_file
from .index_extension import SkippedIndices, StretchedIndices
from .tables import load_rows
from .tokenize import cached_tokenizer, tokenize_documents, train_tokenizer


__all__ = [
    "DEFAULT_CORPUS",
    "SkippedIndices",
    "StretchedIndices",
    "all_documents",
    "cached_tokenizer",
    "load_documents",
    "load_rows",
    "make_blocks",
    "read_text_file",
    "tokenize_documents",
    "train_tokenizer",
]
