"""What the separators of a preset take of the ends in a text."""

from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerFast

from marks.sample import Part


@dataclass
class Count:
    """Of one preset in one text or in several."""

    ends: int = 0
    """Characters, or runs of them, that end a unit."""
    taken: int = 0
    """Of these, those in a separator."""
    shared: int = 0
    """Of these, those in the same separator as one before."""
    missed: dict[str, int] = field(default_factory=dict)
    """The others, with what stands around them."""
    elsewhere: dict[str, int] = field(default_factory=dict)
    """Separators in which no unit ends, with what stands around them; newlines in prose are none of these."""


def count(part: Part, preset: str, tokenizer: PreTrainedTokenizerFast, separators: set[int]) -> Count:
    """
    Args:
        separators: token ids that the preset finds.
    """
    encoded = tokenizer(part.text, add_special_tokens=False, return_offsets_mapping=True)
    spans = [
        span
        for token_id, span in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        if token_id in separators
    ]
    result, last = Count(ends=len(part.ends[preset])), None
    for start, end in part.ends[preset]:
        found = next((span for span in spans if span[0] < end and start < span[1]), None)
        if found is None:
            _add(result.missed, _around(part.text, start, end))
        else:
            result.taken += 1
            result.shared += found == last
            last = found
    for start, end in dict.fromkeys(spans):
        is_end = any(start < other_end and other < end for other, other_end in part.ends[preset])
        if not is_end and "\n" not in part.text[start:end]:
            _add(result.elsewhere, _around(part.text, start, end))
    return result


def total(counts: list[Count]) -> Count:
    """All of them in one."""
    result = Count()
    for each in counts:
        result.ends += each.ends
        result.taken += each.taken
        result.shared += each.shared
        for text, times in each.missed.items():
            _add(result.missed, text, times)
        for text, times in each.elsewhere.items():
            _add(result.elsewhere, text, times)
    return result


def _add(counts: dict[str, int], text: str, times: int = 1) -> None:
    counts[text] = counts.get(text, 0) + times


def _around(text: str, start: int, end: int) -> str:
    return text[max(start - 2, 0) : end + 2]
