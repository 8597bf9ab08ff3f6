"""The client: sends calls, and answers questions about jobs.

client.py     plain sends             keyed.py   sends with a key
queries.py    questions about jobs    sync.py    blocking calls
host.py       the app's side of its tasks
"""
