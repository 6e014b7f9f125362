"""Connections: wires, listeners, dialling, names."""
