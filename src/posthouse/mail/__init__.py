"""Values of mail: addresses, envelopes, replies, messages. No input, no output."""
