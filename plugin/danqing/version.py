"""The one place that holds the version: the build reads it from here, and so does :mod:`danqing`."""

__version__ = "0.1.0"
