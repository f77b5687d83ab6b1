"""Getting in: TCP, key exchange, host key, login; and why not, told apart.

The board's pinned host key is checked before anything is sent to log in. No agent, no ``~/.ssh``, no passwords.
paramiko tells of many failures in the same words; what the socket has seen tells them apart.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading

import paramiko

from pytest_edgehil.board.deadline import Deadline
from pytest_edgehil.board.hostkey import HostKey, algorithms_for, check_host_key, fingerprint
from pytest_edgehil.board.tcp import WatchedSocket, dial
from pytest_edgehil.errors import ConnectFailed
from pytest_edgehil.model.board import SshAccess

# No separate integrity code per packet with GCM; no key exchange is faster than curve25519.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_KEX = ("curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521")


_paramiko_log = logging.getLogger("edgehil.board.paramiko")


def _wanted(_record: logging.LogRecord) -> bool:
    """What paramiko says at length becomes one of our errors: it is for those who look for an error in ours."""
    return _paramiko_log.isEnabledFor(logging.DEBUG)


_paramiko_log.addFilter(_wanted)


class HungUp(ConnectFailed):
    """The server ended the connection before it said who it is."""


class Silent(ConnectFailed):
    """Something took the connection and has said nothing yet."""


def log_in(
    access: SshAccess, pinned: HostKey, key: paramiko.PKey, *, board_id: str, deadline: Deadline, banner_s: float
) -> tuple[paramiko.Transport, WatchedSocket]:
    """Connects, checks who is there, and logs in.

    Args:
        access: where, as whom, with which key.
        pinned: the host key that is expected.
        key: ours.
        board_id: for messages.
        deadline: for all of it.
        banner_s: how long the server may take to say that it speaks SSH.

    Raises:
        HungUp: the server hung up before it said who it is.
        Silent: it said nothing within `banner_s`, and the deadline has not passed.
        ConnectFailed: anything else that keeps us out.
        HostKeyMismatch: whoever answers does not hold the pinned key.
    """
    where = f"{board_id} at {access.host}:{access.port}"
    sock = dial(access.host, access.port, board_id=board_id, deadline=deadline)
    session = None
    try:
        session = paramiko.Transport(sock)
        _negotiate(session, sock, pinned, where=where, deadline=deadline, banner_s=banner_s)
        check_host_key(pinned, session.get_remote_server_key(), board_id=board_id, access=access)
        _authenticate(session, access, key, where=where, deadline=deadline)
    except BaseException as exc:
        lost = sock.lost  # before it is closed by ourselves
        if session is None:
            sock.close()
        else:
            end_session(session, sock)
        if isinstance(exc, (paramiko.SSHException, EOFError, OSError)):
            raise _login_failed(exc, access, key, lost, where=where, deadline=deadline) from exc
        raise
    return session, sock


def _negotiate(
    session: paramiko.Transport,
    sock: WatchedSocket,
    pinned: HostKey,
    *,
    where: str,
    deadline: Deadline,
    banner_s: float,
) -> None:
    session.set_log_channel(_paramiko_log.name)
    session.daemon = True
    options = session.get_security_options()
    options.ciphers = tuple(name for name in _CIPHERS if name in options.ciphers)
    options.kex = (
        *(name for name in _KEX if name in options.kex),
        *(name for name in options.kex if name not in _KEX),
    )
    options.key_types = algorithms_for(pinned, tuple(options.key_types))
    session.handshake_timeout = deadline.left_s()
    session.banner_timeout = min(banner_s, session.handshake_timeout)
    negotiated = threading.Event()
    session.start_client(event=negotiated)
    negotiated.wait(deadline.left_s())
    if not session.initial_kex_done:
        raise _not_negotiated(session, sock, where=where, deadline=deadline)


def _authenticate(
    session: paramiko.Transport, access: SshAccess, key: paramiko.PKey, *, where: str, deadline: Deadline
) -> None:
    session.auth_timeout = deadline.left_s()
    missing = session.auth_publickey(access.user, key)
    if missing or not session.is_authenticated():
        raise ConnectFailed(
            f"{where} accepts the key of {access.user!r} but asks for more ({', '.join(missing)}); "
            "boards are reached with a key alone"
        )


def _not_negotiated(
    session: paramiko.Transport, sock: WatchedSocket, *, where: str, deadline: Deadline
) -> ConnectFailed:
    """Why there is no encrypted connection."""
    cause = session.get_exception()
    if not session.remote_version:
        if sock.lost:
            failed: ConnectFailed = HungUp(
                f"{where} took the connection and hung up before its SSH banner came ({sock.lost}); "
                "too many connections at once (MaxStartups), or no SSH server on that port"
            )
        elif sock.heard_bytes and cause is not None and not deadline.passed():
            failed = ConnectFailed(f"{where} does not speak SSH: {cause}; is ssh.port right?")
        else:
            failed = (ConnectFailed if deadline.passed() else Silent)(
                f"{where} took the connection, but its SSH banner never came within {deadline.timeout_s:g} s; "
                "the board may hang, or another service listens on that port"
            )
    elif deadline.passed():
        failed = ConnectFailed(f"{where}: the key exchange timed out: not finished within {deadline.timeout_s:g} s")
    else:
        failed = ConnectFailed(f"{where}: no encrypted connection could be agreed on: {cause or sock.lost}")
    failed.__cause__ = cause
    return failed


def _login_failed(
    exc: Exception, access: SshAccess, key: paramiko.PKey, lost: str, *, where: str, deadline: Deadline
) -> ConnectFailed:
    if lost:
        return ConnectFailed(f"{where} broke the connection off during the login of {access.user!r}: {lost}")
    if deadline.passed():
        return ConnectFailed(
            f"{where}: the login of {access.user!r} timed out: not done within {deadline.timeout_s:g} s"
        )
    if isinstance(exc, paramiko.AuthenticationException):
        return ConnectFailed(
            f"{where} refused the login of {access.user!r} with key {access.key_path} ({key.get_name()} "
            f"{fingerprint(key.asbytes())}); is its public half in the board's authorized_keys, and is ssh.user right?"
        )
    return ConnectFailed(f"{where}: the login of {access.user!r} failed: {exc}")


def end_session(session: paramiko.Transport, sock: WatchedSocket) -> None:
    """Ends the session and its thread, and closes the socket."""
    with contextlib.suppress(OSError):  # it may not be connected any more
        sock.shutdown(socket.SHUT_RDWR)  # wakes paramiko's thread now instead of at its next look, 0.1 s later
    session.close()
    if session.ident is not None:  # it may never have been started
        session.join(5.0)
    sock.close()
