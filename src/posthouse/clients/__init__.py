"""The clients that send and collect."""
