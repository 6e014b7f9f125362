"""The SMTP protocol core, both roles, without input or output."""
