"""Decisions about peers: who may connect, log in, send and relay, and how much of it."""
