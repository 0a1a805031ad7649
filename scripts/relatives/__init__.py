"""What `check_relatives.py` reads, computes and compares."""
