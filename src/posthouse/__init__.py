"""Posthouse: the whole of e-mail in one package."""

__version__ = "0.1.0"
