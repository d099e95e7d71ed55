"""Errors that more than one module of this folder raises."""


class ConfigError(ValueError):
    """A configuration that cannot be used: the message names the key, the value and the remedy."""
