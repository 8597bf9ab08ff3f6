"""SQLite: from a URL to an open file and to the threads that use it."""
