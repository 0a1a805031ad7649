"""Passkey retrieval."""
