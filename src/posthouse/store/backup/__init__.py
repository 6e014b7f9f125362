"""Copies of a whole data directory, kept apart from it: made beside a running server, verified, brought back.

A backup directory holds a pool of objects, each named by its SHA-256, and one manifest for each backup. What did not
change since the last backup is in the pool already and is not written again (docs/adr/0148).
"""
