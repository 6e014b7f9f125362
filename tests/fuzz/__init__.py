"""Random octets against every protocol core and every parser: `make fuzz`."""
