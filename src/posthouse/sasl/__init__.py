"""SASL mechanisms, both roles, without input or output."""
