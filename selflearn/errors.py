"""Every error that selflearn raises on purpose, in one tree.

    SelflearnError
    ├── ConfigurationError         a setting is missing, misspelt or out of bounds
    ├── StateError                 the state directory cannot be used
    │   ├── StateInUse             another daemon holds it
    │   ├── SchemaTooNew           it was written by a newer selflearn
    │   └── StoreUnavailable       the database cannot be written right now
    ├── ModelError                 a base model is missing, unreadable or not supported
    ├── BadRequest                 what a client sent is not acceptable (HTTP 400)
    │   ├── NotFound               it names something that does not exist (404)
    │   ├── Conflict               it was already done, or contradicts what is there (409)
    │   │   └── RefusedByGate      the gate did not promote it, and nobody overrides that (409)
    │   ├── Unauthorized           it comes without a key that is known here (401)
    │   └── Forbidden              its key has a role that may not do this (403)
    ├── Overloaded                 no place is free for this request right now (503)
    │   ├── QueueFull              as many requests wait as may wait (429)
    │   └── RateLimited            its key sent as many requests as it may for now (429)
    ├── EngineError                generation failed inside the engine (500)
    │   └── EngineUnavailable      the engine is away for now and expected back (503)
    ├── VersionError               a version cannot be served
    │   ├── VersionDamaged         a file is missing or differs from its manifest
    │   ├── VersionRemoved         its files were removed on purpose
    │   └── ProofFailed            the loaded weights do not answer as the worker recorded
    ├── UpdateError                an update could not be carried out
    │   ├── NotEnoughExamples      too little data to train and judge on
    │   ├── UpdateRunning          one update at a time
    │   └── WorkerFailed           the worker ended without a report
    └── DaemonUnreachable          no daemon answers at the address

A message says what was found, what was expected, and what to do next.
"""

from __future__ import annotations


class SelflearnError(Exception):
    """Base of all deliberate errors; ``str(error)`` is fit to show to an operator."""


class ConfigurationError(SelflearnError):
    pass


class StateError(SelflearnError):
    pass


class StateInUse(StateError):
    pass


class SchemaTooNew(StateError):
    pass


class StoreUnavailable(StateError):
    pass


class ModelError(SelflearnError):
    pass


class BadRequest(SelflearnError):
    """A client error. ``param`` names the offending field, ``code`` is a stable machine-readable word."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class NotFound(BadRequest):
    pass


class Conflict(BadRequest):
    pass


class RefusedByGate(Conflict):
    pass


class Unauthorized(BadRequest):
    pass


class Forbidden(BadRequest):
    pass


class Overloaded(SelflearnError):
    pass


class QueueFull(Overloaded):
    pass


class RateLimited(Overloaded):
    """``retry_after`` is the seconds until the next request is let in."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineError(SelflearnError):
    pass


class EngineUnavailable(EngineError):
    pass


class VersionError(SelflearnError):
    pass


class VersionDamaged(VersionError):
    pass


class VersionRemoved(VersionError):
    pass


class ProofFailed(VersionError):
    pass


class UpdateError(SelflearnError):
    pass


class NotEnoughExamples(UpdateError):
    """``reason`` is a stable word for metrics."""

    def __init__(self, message: str, *, reason: str = "too_few_examples") -> None:
        super().__init__(message)
        self.reason = reason


class UpdateRunning(UpdateError):
    pass


class WorkerFailed(UpdateError):
    pass


class DaemonUnreachable(SelflearnError):
    pass
