"""The queue at work: what is due is taken, carried on and settled."""
