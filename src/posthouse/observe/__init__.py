"""What a running system tells: logs and transcripts."""
