"""What `scripts/fill_numbers.py` writes numbers with."""
