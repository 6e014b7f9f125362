"""Measurements of Posthouse beside the mail servers that Debian packages: see README.md in this folder."""
