"""PostgreSQL: from a URL to sessions. Needs psycopg."""
