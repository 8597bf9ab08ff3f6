"""Adapters for keyed records, behind the seam of :mod:`taskcore.store`.

The core never imports them; an app finds them by URL.
"""
