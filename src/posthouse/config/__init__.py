"""Every setting: its type, default, unit, bounds and help; and how a file of them is read."""
