"""Every exception that clustrix raises.

Each carries a sentence that names the thing and, where one exists, a remedy::

    ClustrixError
    |-- ConfigError                 configuration, options, targets
    |   `-- UnknownOption           a name nobody knows, with the nearest one that exists
    |-- MissingExtra                an optional package is not installed; names the pip command
    |-- CaptureError                the environment or the caller's code cannot be described
    |   `-- Unpicklable             an argument, closure value or result that cannot travel; named
    |-- ParallelError               a loop cannot be shared out, or a process that did a part of it died
    |-- LockError                   no lock can be made or read
    |   |-- HashMismatch            a file is not the one that was locked
    |   `-- UnsupportedPackage      a package cannot be had for the target; named
    |-- BuildError                  no image can be made
    |   |-- BaseImageError          the base has no usable Python, or another one
    |   |-- CredentialsInLayer      a layer would hold a secret
    |   `-- DiskFull                no space where the image is built or kept
    |-- ImageError                  an image cannot be used
    |   |-- BadReference            not an image reference
    |   |-- ImageUnavailable        it does not exist, or this place cannot reach it
    |   `-- RegistryError           a registry answered, but not with what was asked
    |       |-- RegistryDenied      no credentials, or not the right ones
    |       `-- RateLimited         it said to come back later
    |-- TransportError              a host cannot be reached or a command cannot be run on it
    |   |-- AuthenticationFailed    the host refused every credential
    |   |   `-- AccessDenied        it knows who asks, and does not allow it; names what
    |   |-- HostKeyError            the host is unknown, or is not the one that was known
    |   `-- ConnectionLost          it was there and went away; what was asked may have happened
    |-- RuntimeUnavailable          no usable Docker, Podman, Apptainer or Python at the target
    |-- BackendError                a scheduler or cluster
    |   |-- SubmitRejected          it refused the job, in its own words
    |   |-- UnparsableOutput        it said something nobody understands
    |   `-- UnsupportedResource     it cannot express or fulfil what was asked
    |-- StoreError                  a payload or an outcome cannot be kept or read
    |   |-- Tampered                an outcome is not signed with the key of its job
    |   `-- ResultTooLarge          the way back is too narrow
    |-- UnknownJob                  no such job in the journal or at the target
    |-- NotReady                    the job has not ended
    `-- JobError                    the job ended without a value
        |-- JobFailed               user code failed and its exception cannot be rebuilt here
        |-- UserExit                user code called sys.exit
        |-- Crashed                 the process died of a signal (segmentation fault, kill -9)
        |-- OutOfMemory             a process of the job was killed for its memory
        |-- TimeLimit               the job ran into its time limit
        |-- NodeFailure             the machine under the job failed
        |-- Preempted               the scheduler took the place away
        |-- JobCancelled            somebody cancelled it
        |-- JobLost                 nobody knows the job any more and it left no outcome
        |-- Unschedulable           it can never start as it was asked
        |-- ImagePullFailed         its image cannot be had there; an ImageUnavailable, too
        `-- EnvironmentMismatch     the environment there is not the one that was locked

``JobError`` is raised by reading a result. An exception of user code that can be rebuilt is raised
as itself, with the remote traceback in its ``__cause__``.
"""

from __future__ import annotations

__all__ = [
    "AccessDenied",
    "AuthenticationFailed",
    "BackendError",
    "BadReference",
    "BaseImageError",
    "BuildError",
    "CaptureError",
    "ClustrixError",
    "ConfigError",
    "ConnectionLost",
    "Crashed",
    "CredentialsInLayer",
    "DiskFull",
    "EnvironmentMismatch",
    "HashMismatch",
    "HostKeyError",
    "ImageError",
    "ImagePullFailed",
    "ImageUnavailable",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobLost",
    "LockError",
    "MissingExtra",
    "NodeFailure",
    "NotReady",
    "OutOfMemory",
    "ParallelError",
    "Preempted",
    "RateLimited",
    "RegistryDenied",
    "RegistryError",
    "ResultTooLarge",
    "RuntimeUnavailable",
    "StoreError",
    "SubmitRejected",
    "Tampered",
    "TimeLimit",
    "TransportError",
    "UnknownJob",
    "UnknownOption",
    "UnparsableOutput",
    "Unpicklable",
    "Unschedulable",
    "UnsupportedPackage",
    "UnsupportedResource",
    "UserExit",
]


class ClustrixError(Exception):
    """Name what went wrong and what to do about it."""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message}\n  {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments do not survive pickling by default.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[ClustrixError], args: tuple[object, ...], state: dict[str, object]) -> ClustrixError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(ClustrixError):
    """The configuration or an option is wrong."""


class UnknownOption(ConfigError):
    """An option, target or key does not exist; ``where`` is the file and line that names it."""

    def __init__(self, kind: str, name: str, known: list[str] | tuple[str, ...], *, where: str = "") -> None:
        from difflib import get_close_matches

        near = get_close_matches(name, known, n=1)
        remedy = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(sorted(known))}."
        super().__init__(f"{where and f'{where}: '}unknown {kind} {name!r}", remedy=remedy)
        self.kind = kind
        self.name = name


class MissingExtra(ClustrixError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, *, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed",
            remedy=f"Install it with: pip install 'clustrix[{extra}]'",
        )
        self.extra = extra


class CaptureError(ClustrixError):
    """The environment or the caller's code cannot be described."""


class Unpicklable(CaptureError):
    """A value cannot travel between processes."""


class ParallelError(ClustrixError):
    """A loop cannot be shared out over processes, with the reason; or one of them died."""


class LockError(ClustrixError):
    """No lock can be made or read."""


class HashMismatch(LockError):
    """A file is not the one that was locked."""


class UnsupportedPackage(LockError):
    """A package cannot be had for the target platform."""


class BuildError(ClustrixError):
    """No image can be made."""


class BaseImageError(BuildError):
    """The base image has no usable Python."""


class CredentialsInLayer(BuildError):
    """A layer would hold a secret."""


class DiskFull(BuildError):
    """There is no space left."""


class ImageError(ClustrixError):
    """An image cannot be used."""


class BadReference(ImageError):
    """A string is no image reference."""


class ImageUnavailable(ImageError):
    """An image does not exist or cannot be reached from where it is needed."""


class RegistryError(ImageError):
    """A registry answered with something else than what was asked."""


class RegistryDenied(RegistryError):
    """A registry wants other credentials."""


class RateLimited(RegistryError):
    """A registry wants to be asked later."""


class TransportError(ClustrixError):
    """A host cannot be reached, or a command cannot be run on it."""


class AuthenticationFailed(TransportError):
    """A host refused every credential that was offered."""


class AccessDenied(AuthenticationFailed):
    """An account may not do what was asked; the message names the right that it does not have."""


class HostKeyError(TransportError):
    """A host's key is unknown or has changed."""


class ConnectionLost(TransportError):
    """A connection broke; what was asked last may or may not have happened."""


class RuntimeUnavailable(ClustrixError):
    """There is no usable container runtime or Python at the target."""


class BackendError(ClustrixError):
    """A scheduler or cluster did not do what was asked."""


class SubmitRejected(BackendError):
    """A scheduler refused a job; the message holds its own words."""


class UnparsableOutput(BackendError):
    """A scheduler printed something that its dialect does not know."""


class UnsupportedResource(BackendError):
    """A backend cannot express or fulfil a request."""


class StoreError(ClustrixError):
    """A payload or an outcome cannot be kept or read."""


class Tampered(StoreError):
    """An outcome is not signed with the key of its job."""


class ResultTooLarge(StoreError):
    """A result does not fit the way back."""


class UnknownJob(ClustrixError):
    """No such job is known."""


class NotReady(ClustrixError):
    """The job has not ended."""


class JobError(ClustrixError):
    """The job ended without a value."""

    def __init__(
        self,
        message: str,
        *,
        remedy: str | None = None,
        job_id: str | None = None,
        index: int | None = None,
        remote_traceback: str | None = None,
        log_tail: str | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.job_id = job_id
        self.index = index
        self.remote_traceback = remote_traceback
        self.log_tail = log_tail

    def __str__(self) -> str:
        parts = [self.message]
        if self.remote_traceback:
            parts.append(self.remote_traceback.rstrip())
        if self.log_tail:
            parts.append(f"last lines of its output:\n{self.log_tail.rstrip()}")
        if self.remedy:
            parts.append(f"  {self.remedy}")
        return "\n".join(parts)


class JobFailed(JobError):
    """User code raised an exception that cannot be rebuilt here."""


class UserExit(JobError):
    """User code called ``sys.exit``; ``code`` is its argument."""

    code: object = None


class Crashed(JobError):
    """The process of the job died of a signal or left without an outcome."""


class OutOfMemory(JobError):
    """A process of the job was killed because it used more memory than was asked for."""


class TimeLimit(JobError):
    """The job ran into its time limit; ``checkpoint`` is what its `on_preempt` hook returned, if it had one."""

    checkpoint: object = None


class NodeFailure(JobError):
    """The machine under the job failed."""


class Preempted(JobError):
    """The scheduler took the job's place away; ``checkpoint`` is what its `on_preempt` hook returned, if it had one."""

    checkpoint: object = None


class JobCancelled(JobError):
    """Somebody cancelled the job."""


class JobLost(JobError):
    """Nobody knows the job any more and it left no outcome."""


class Unschedulable(JobError):
    """The job can never start as it was asked."""


class ImagePullFailed(JobError, ImageUnavailable):
    """The job never started, because its image cannot be had where it was to run."""


class EnvironmentMismatch(JobError):
    """The environment of the job is not the one that was locked."""
