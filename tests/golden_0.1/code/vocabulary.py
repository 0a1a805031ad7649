"""What the tokens of a vocabulary stand for."""

from tokenizers import Tokenizer, decoders, pre_tokenizers


def token_texts(backend: Tokenizer) -> dict[int, str]:
    """The text that each token stands for, by id.

    The backend's own decoder knows what an entry means, be it bytes, metaspaces or word pieces. It treats the first
    token of a text specially, so each one is decoded behind a letter. Bytes that are not a whole character come out
    as U+FFFD, which no preset matches, while every whole character beside them is real: UTF-8 synchronises itself.
    """
    decoder = backend.decoder
    if decoder is None and _is_byte_level(backend.pre_tokenizer):
        decoder = decoders.ByteLevel()
    vocabulary = backend.get_vocab(with_added_tokens=True)
    if decoder is None:
        return {token_id: token for token, token_id in vocabulary.items()}
    return {token_id: decoder.decode(["a", token]).removeprefix("a") for token, token_id in vocabulary.items()}


def _is_byte_level(pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> bool:
    if isinstance(pre_tokenizer, pre_tokenizers.Sequence):
        return any(map(_is_byte_level, pre_tokenizer))
    return isinstance(pre_tokenizer, pre_tokenizers.ByteLevel)
