"""PostgreSQL: from a URL to connections."""
