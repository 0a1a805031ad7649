"""What `gpu.py` finds out."""

from .versions import check_versions


check_versions()  # before anything of the libraries is imported
