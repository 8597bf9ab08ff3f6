"""Adapters: one broker each, behind the seam of :mod:`taskcore.backend`.

The core never imports them; an app finds them by URL.
"""
