"""Programs that show taskcore at work."""
