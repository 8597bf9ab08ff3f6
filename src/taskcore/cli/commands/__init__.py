"""The commands, one file each; each file has a `command`."""
