"""Tables, Markdown and JSON lines."""
