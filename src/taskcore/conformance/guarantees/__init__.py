"""The checks of the delivery guarantees, one file a subject. Importing a file registers its checks."""
