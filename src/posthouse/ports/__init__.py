"""The interfaces between the floors: Protocols and the values they pass."""
