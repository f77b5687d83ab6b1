"""The web application: two pages to look at, three actions, and a login for whoever has the token.

No JavaScript and nothing from elsewhere: the content security policy says so, and the page works where the lab has no
internet. An action is a form; its cookie is ``SameSite=Strict``, and the origin is checked as well, so that another
site cannot press a button for somebody who is logged in here.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from pytest_edgehil.errors import EdgehilError, LeaseError
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import Holder, LabStore
from pytest_edgehil.reporting.status_page.view import LabView, lab_view, states_in_words

COOKIE: Final = "edgehil"
LONGEST_FORM: Final = 4096
LAB_LINES: Final = 30
BOARD_LINES: Final = 200
ACTIONS: Final = ("release", "quarantine", "restore")

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class StatusPage:
    """The page of one lab.

    Args:
        lab: the inventory.
        open_store: opens the lab's database; called for each request, since the page outlives restarts of it.
        token: whoever knows it may act; None shows and does not act.
        clock: seconds since the epoch, of the host: only for what the database does not say.
    """

    def __init__(
        self,
        lab: Lab,
        *,
        open_store: Callable[[Lab], AbstractContextManager[LabStore]],
        token: str | None,
        clock: Callable[[], float],
    ) -> None:
        self._lab = lab
        self._open_store = open_store
        self._token = token
        self._clock = clock
        self._templates = Environment(
            loader=PackageLoader("pytest_edgehil.reporting.status_page"),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def application(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/", self._show_lab),
                Route("/boards/{board_id}", self._show_board),
                Route("/boards/{board_id}/{action}", self._act, methods=["POST"]),
                Route("/login", self._show_login),
                Route("/login", self._log_in, methods=["POST"]),
                Route("/logout", self._log_out, methods=["POST"]),
                Route("/style.css", self._style),
                Route("/healthz", self._healthy),
            ],
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=_with_headers)],
            exception_handlers={EdgehilError: self._trouble, 404: self._not_found},
        )

    # --- looking --------------------------------------------------------------------------------------

    def _view(self, *, board_id: str | None, lines: int) -> LabView:
        """The lab now, with the newest lines of its history, or of one board's."""
        with self._open_store(self._lab) as store:
            return lab_view(
                self._lab,
                states=store.boards(),
                queue=store.queue(),
                audit=store.audit(board_id=board_id, newest=lines),
                checks=store.checks(),
                visits=store.visits(),
                now=self._clock(),
            )

    def _show_lab(self, request: Request) -> Response:
        view = self._view(board_id=None, lines=LAB_LINES)
        return self._page("lab.html", request, view=view, summary=states_in_words(view), refresh_s=10)

    def _show_board(self, request: Request) -> Response:
        board_id = request.path_params["board_id"]
        view = self._view(board_id=board_id, lines=BOARD_LINES)
        board = view.board(board_id)
        if board is None:
            return self._not_found(request, None)
        return self._page("board.html", request, one=board, history=view.history)

    def _healthy(self, request: Request) -> Response:  # noqa: ARG002 -- a route takes the request
        with self._open_store(self._lab) as store:
            store.boards()
        return Response("ok\n", media_type="text/plain")

    def _style(self, request: Request) -> Response:  # noqa: ARG002 -- a route takes the request
        return Response(self._templates.get_template("style.css").render(), media_type="text/css")

    # --- acting ---------------------------------------------------------------------------------------

    async def _act(self, request: Request) -> Response:
        who = self._who(request)
        if who is None or not _same_origin(request):
            return self._refusal(request, 403, "acting on a board needs the token: log in first")
        board_id, action = request.path_params["board_id"], request.path_params["action"]
        if action not in ACTIONS or board_id not in {board.id for board in self._lab.boards}:
            return self._not_found(request, None)
        form = await _form(request)
        reason = " ".join(form.get("reason", "").split())[:500]
        if action in {"release", "quarantine"} and not reason:
            return self._refusal(request, 400, f"{action} needs a reason: the holder is told, and the audit keeps it")
        await run_in_threadpool(self._change, board_id, action, reason, who)
        return RedirectResponse(f"/boards/{quote(board_id)}", status_code=303)

    def _change(self, board_id: str, action: str, reason: str, who: Holder) -> None:
        with self._open_store(self._lab) as store:
            if action == "release":
                store.force_release(board_id, by=who, reason=reason)
            elif action == "quarantine":
                store.quarantine(board_id, reason=reason, by=who)
            else:
                store.restore(board_id, by=who, reason=reason)

    def _show_login(self, request: Request) -> Response:
        if self._token is None:
            return self._refusal(request, 403, "this page only shows: start it with --token-file to act")
        return self._page("login.html", request, wrong="")

    async def _log_in(self, request: Request) -> Response:
        if self._token is None or not _same_origin(request):
            return self._refusal(request, 403, "this page only shows: start it with --token-file to act")
        form = await _form(request)
        name = "-".join(form.get("name", "").split())[:60]
        if not name or not hmac.compare_digest(form.get("token", "").encode(), self._token.encode()):
            return self._page("login.html", request, wrong="a name and the right token are needed", status=403)
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(
            COOKIE,
            f"{quote(name)}:{self._signed(name)}",
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
            max_age=12 * 3600,
        )
        return answer

    async def _log_out(self, request: Request) -> Response:  # noqa: ARG002 -- a route takes the request
        answer = RedirectResponse("/", status_code=303)
        answer.delete_cookie(COOKIE)
        return answer

    def _signed(self, name: str) -> str:
        assert self._token is not None
        return hmac.new(self._token.encode(), f"edgehil status page\0{name}".encode(), hashlib.sha256).hexdigest()

    def _who(self, request: Request) -> Holder | None:
        """Whoever is logged in, as the audit trail names people."""
        name, _, signature = request.cookies.get(COOKIE, "").partition(":")
        name = unquote(name)
        if self._token is None or not name or not hmac.compare_digest(signature, self._signed(name)):
            return None
        return Holder(name=name, host=request.client.host if request.client else "unknown", pid=os.getpid(), user=name)

    # --- answers --------------------------------------------------------------------------------------

    def _page(self, template: str, request: Request, *, status: int = 200, **values: object) -> HTMLResponse:
        who = self._who(request)
        values = {
            "refresh_s": 0,
            "lab": self._lab.name,
            "user": who.name if who is not None else "",
            "may_log_in": self._token is not None,
            **values,
        }
        return HTMLResponse(self._templates.get_template(template).render(values), status_code=status)

    def _refusal(self, request: Request, status: int, what: str) -> Response:
        return self._page("trouble.html", request, what=what, status=status)

    def _not_found(self, request: Request, wrong: Exception | None) -> Response:  # noqa: ARG002 -- a handler takes it
        return self._refusal(request, 404, f"there is no {request.url.path} here; the boards are on the first page")

    def _trouble(self, request: Request, wrong: Exception) -> Response:
        """The database is away or the board is not: said in one line, as everywhere."""
        return self._refusal(request, 503 if isinstance(wrong, LeaseError) else 400, str(wrong))


async def _with_headers(request: Request, following: RequestResponseEndpoint) -> Response:
    answer = await following(request)
    answer.headers.update(_HEADERS)
    return answer


async def _form(request: Request) -> dict[str, str]:
    """The last value of each field; a body that is too long is cut, and then lacks something."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LONGEST_FORM:
            break
    fields = parse_qs(body[:LONGEST_FORM].decode("utf-8", "replace"))
    return {name: values[-1] for name, values in fields.items()}


def _same_origin(request: Request) -> bool:
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
