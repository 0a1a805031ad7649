"""The version of this package, also where only its files are, beside a checkpoint."""

__version__ = "0.2.0.dev0"
