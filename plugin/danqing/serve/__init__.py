"""A model behind PAI-EAS's contract: over HTTP (``app``), or as a function of bytes (``service``)."""
