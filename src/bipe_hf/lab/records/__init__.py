"""Language models of records: tables, JSON lines and logs.

A model learns rows in a canonical form (`form`), in which lines and fields are levels of segments. It then continues
them, fills a missing field and says how unusual each field of a row is.
"""

from .arguments import RecordSettings
from .fill import Filled, fill_rows
from .reading import Given, Records, read_records
from .sample import Sample, sample_rows
from .score import ScoreReport, score_records, score_table
from .scoring import RecordModel, open_records
from .train import train_records
from .use import continue_records, fill_records


__all__ = [
    "Filled",
    "Given",
    "RecordModel",
    "RecordSettings",
    "Records",
    "Sample",
    "ScoreReport",
    "continue_records",
    "fill_records",
    "fill_rows",
    "open_records",
    "read_records",
    "sample_rows",
    "score_records",
    "score_table",
    "train_records",
]
