"""Every error that pytest-edgehil raises, drawn as a tree.

::

    EdgehilError
    ├── UserError                    something a person wrote or passed is wrong: one line, no traceback
    │   ├── QuantityError            "12 parsecs" where a duration is wanted        (also a ValueError)
    │   ├── LabFileError             lab.yaml is missing, malformed or contradicts itself
    │   ├── MarkerError              a marker has a bad or unknown argument
    │   ├── RecipeError              a build recipe is malformed or names what is not there
    │   ├── ArtifactError            an artifact cannot be used
    │   │   ├── ArtifactNotFound     no artifact answers to that name, or several do
    │   │   ├── CorruptArtifact      its bytes are not what its manifest or its digest says
    │   │   ├── UnsafeArchive        its archive holds what must never be unpacked
    │   │   └── WrongTarget          it is made for another board, runtime or combo
    │   ├── DatasetError             a held-out set is missing or malformed
    │   ├── BoardUnavailable         no board of the lab can ever fulfil the requirement
    │   ├── EvidenceError            evidence is missing, altered, forged, stale or says something else
    │   ├── ReleaseRefused           the policy is not fulfilled; `reasons` lists why
    │   ├── RolloutError             a plan or its telemetry cannot be used
    │   ├── ConfigError              an option, an ini value or a key file cannot be used
    │   └── ExtraMissing             a feature needs an optional extra that is not installed
    ├── GateFailure                  a gate was missed: the verdict is FAIL              (also an AssertionError)
    ├── Inconclusive                 a gate could not be decided within its budget
    ├── InvalidMeasurement           the measurement must not be used: the verdict is INVALID
    ├── ModelError                   the model itself failed on a healthy board (does not load, crashes, wrong feeds)
    │   └── ModelTimeout             it did not answer in its time, on a board that went on giving signs of life
    └── BoardError                   a board, link or lab broke: never the model's fault
        ├── ConnectFailed            nobody answers, or the login is refused
        ├── HostKeyMismatch          whoever answers is not the board that lab.yaml pins
        ├── LinkLost                 the connection broke off while in use
        ├── DeadlineExceeded         an operation took longer than it was given
        ├── ProtocolError            the on-board program and the host do not understand each other
        ├── FlashError               an artifact could not be put on the board, or did not verify there
        │   ├── DiskFull             no space left on the board
        │   └── FirmwareRejected     the firmware did not boot, or failed its health check; the board fell back
        ├── BoardCrashed             kernel panic, unexpected reboot, power loss
        ├── OutOfMemory              the board's kernel killed the model's process
        ├── Overheated               the board is beyond its critical temperature
        ├── RuntimeMissing           the board lacks the runtime that the artifact needs
        ├── ConsoleError             the serial console cannot be opened, or a pattern never came
        ├── PowerError               the power back-end failed
        └── LeaseError               the right to the board is gone
            ├── LeaseTimeout         no matching board became free within the wait limit
            ├── LeaseLost            the lease expired or was taken away
            ├── Fenced               the board has seen a higher fencing token than ours
            └── LabgridError         the labgrid lab that the board belongs to cannot be used
                └── PlaceTaken       somebody holds the board's place there, or its exporter is away

A message is lower case and says what, where, what was observed, what was expected and what to do next.
"""

from __future__ import annotations


class EdgehilError(Exception):
    """Base of everything below."""


# --- what a person wrote -----------------------------------------------------------------------------


class UserError(EdgehilError):
    """Something that a person wrote or passed is wrong; shown as one line, without a traceback."""


class QuantityError(UserError, ValueError):
    """A quantity with a unit could not be understood."""


class LabFileError(UserError):
    """The lab file is missing, malformed or contradicts itself.

    Args:
        message: one line.
        problems: every problem as ``file:line: path: what``, not the first one only.
    """

    def __init__(self, message: str, *, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems or (message,)


class MarkerError(UserError):
    """A marker has a bad or an unknown argument."""


class RecipeError(UserError):
    """A build recipe is malformed or names something that is not there."""


class ArtifactError(UserError):
    """An artifact cannot be used."""


class ArtifactNotFound(ArtifactError):
    """No artifact answers to that name, or several do."""


class CorruptArtifact(ArtifactError):
    """The bytes of an artifact are not what its manifest or its digest says."""


class UnsafeArchive(ArtifactError):
    """An archive holds something that must never be unpacked."""


class WrongTarget(ArtifactError):
    """An artifact is made for another board, runtime or combo."""


class DatasetError(UserError):
    """A held-out set is missing or malformed."""


class BoardUnavailable(UserError):
    """No board of the lab can ever fulfil the requirement."""


class EvidenceError(UserError):
    """Evidence is missing, altered, forged, stale, or says something else than is claimed."""


class ReleaseRefused(UserError):
    """The policy is not fulfilled.

    Args:
        message: one line.
        reasons: every reason, not the first one only.
    """

    def __init__(self, message: str, *, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.reasons = reasons


class RolloutError(UserError):
    """A rollout plan or its telemetry cannot be used."""


class ConfigError(UserError):
    """An option, an ini value or a key file cannot be used."""


class ExtraMissing(UserError):
    """A feature needs an optional extra that is not installed.

    Args:
        extra: the name in ``pip install 'pytest-edgehil[extra]'``.
        feature: what cannot be done without it.
    """

    def __init__(self, *, extra: str, feature: str) -> None:
        super().__init__(f"{feature} needs the optional extra '{extra}': run pip install 'pytest-edgehil[{extra}]'")
        self.extra = extra


# --- what a gate says --------------------------------------------------------------------------------


class GateFailure(AssertionError, EdgehilError):
    """A gate was missed: pytest reports *failed*."""


class Inconclusive(EdgehilError):
    """A gate could not be decided within its budget of samples and time."""


class InvalidMeasurement(EdgehilError):
    """A measurement must not be used, for example because the board throttled while latency was measured."""


class ModelError(EdgehilError):
    """The model itself failed on a healthy board: it does not load, crashes, or refuses its feeds."""


class ModelTimeout(ModelError):
    """The model did not answer in the time it was given, while the board went on giving signs of life."""


# --- what is not the model's fault -------------------------------------------------------------------


class BoardError(EdgehilError):
    """A board, its link or the lab broke: never the model's fault; the board is quarantined with this reason."""


class ConnectFailed(BoardError):
    """Nobody answers at the board's address, or the login is refused."""


class HostKeyMismatch(BoardError):
    """Whoever answers at the board's address does not hold the host key that the lab pins."""


class LinkLost(BoardError):
    """The connection broke off while it was in use."""


class DeadlineExceeded(BoardError):
    """An operation on the board took longer than it was given; the remote process has been killed."""


class ProtocolError(BoardError):
    """The on-board program and the host do not understand each other."""


class FlashError(BoardError):
    """An artifact could not be put on the board, or did not verify there."""


class DiskFull(FlashError):
    """There is no space left on the board."""


class FirmwareRejected(FlashError):
    """The firmware did not boot or failed its health check; the board fell back to the old one."""


class BoardCrashed(BoardError):
    """The board panicked, rebooted or lost power while it was in use."""


class OutOfMemory(BoardError):
    """The board's kernel killed the model's process."""


class Overheated(BoardError):
    """The board is beyond its critical temperature."""


class RuntimeMissing(BoardError):
    """The board lacks the runtime that the artifact needs."""


class ConsoleError(BoardError):
    """The serial console cannot be opened, or a pattern never came."""


class PowerError(BoardError):
    """The power back-end failed."""


class LeaseError(BoardError):
    """The right to the board is gone."""


class LeaseTimeout(LeaseError):
    """No matching board became free within the wait limit."""


class LeaseLost(LeaseError):
    """The lease expired or was taken away."""

    def during(self, what: str) -> LeaseLost:
        """The same error, saying what was going on.

        >>> str(LeaseLost("lease on pi5-03 expired 12 s ago; it is held by ci-841 now").during("flashing"))
        'lease on pi5-03 expired 12 s ago while flashing; it is held by ci-841 now'
        """
        how, semicolon, who = str(self).partition(";")
        return type(self)(f"{how} while {what}{semicolon}{who}")


class Fenced(LeaseError):
    """The board has seen a higher fencing token than ours: somebody else holds it now."""


class LabgridError(LeaseError):
    """The labgrid lab that a board belongs to cannot be asked, or says no."""


class PlaceTaken(LabgridError):
    """Somebody else holds a place in labgrid, or what it consists of is not exported now.

    Args:
        message: one line.
        place: its name.
    """

    def __init__(self, message: str, *, place: str = "") -> None:
        super().__init__(message)
        self.place = place
