"""What separators find in a text, counted against its characters."""
