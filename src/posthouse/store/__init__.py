"""Where letters lie. Only this room knows the engines."""
