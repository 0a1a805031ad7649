"""What `kinds_of_text.py` reads, cuts and writes."""
