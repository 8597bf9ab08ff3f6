"""The toolkit: plumbing that adapters and the core share. It imports nothing of taskcore but its errors."""
