"""The asynchronous half of the SDK, from which the other is made."""
