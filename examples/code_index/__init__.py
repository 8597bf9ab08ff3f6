"""An index of all Python code that this interpreter can import: ``python -m examples.code_index``."""
