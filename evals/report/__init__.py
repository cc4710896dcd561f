"""Tables, Markdown, JSON lines, the page of a report and its figures."""
