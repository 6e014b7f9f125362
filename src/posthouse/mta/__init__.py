"""The mail system's decisions: reception and delivery."""
