"""One session task per connection."""
