"""SQLite: from a URL to a file."""
