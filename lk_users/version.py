"""The version, apart from ``__init__`` so that building the package imports nothing else."""

VERSION = "0.1.0"
