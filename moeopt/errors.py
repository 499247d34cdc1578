"""What can go wrong, as one small tree; every input error is also a ``ValueError``."""


class MoeoptError(Exception):
    """Base of every error this project raises on purpose."""


class InputError(MoeoptError, ValueError):
    """An argument breaks a rule; the message names argument, rule and value."""


class TraceError(InputError):
    """A trace or placement file is not what it should be; names file, layer and column."""


class PlacementError(InputError):
    """A placement breaks a rule of its problem; names layer, rule and numbers."""


class VerificationError(MoeoptError):
    """A number or a proof that a report shows did not survive its independent check."""


class UnsupportedError(InputError):
    """A method cannot take this problem; the message is the reason a report shows."""


class NoPlacementError(MoeoptError):
    """A method found no placement that keeps the problem's limits; names the layers."""
