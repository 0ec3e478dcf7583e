# Made by tools/make_sync.py from _async/__init__.py; not to be changed by hand.
"""The asynchronous half of the SDK, from which the other is made."""
