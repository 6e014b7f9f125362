"""The POP3 protocol core, both roles, without input or output."""
