"""Samplers that no library has."""
