"""Tokenizers that no library has."""
