"""Domains, accounts and their passwords."""
