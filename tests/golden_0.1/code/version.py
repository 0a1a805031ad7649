"""The version of this package, also where only its files are, beside a checkpoint."""

__version__ = "0.1.0"
