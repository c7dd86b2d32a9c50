"""The control API over HTTP: checks credentials, reads bodies, writes answers. Coordinators make all decisions."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import msgspec
import orjson
import structlog
from aiohttp import web
from msgspec import UNSET
from msgspec.structs import replace

from backends.adapters import openapi as data_openapi
from control.api import answers, openapi
from control.api.answers import ApiProblem, given
from control.api.auth import (
    COOKIE,
    CSRF_HEADER,
    Gatekeeper,
    Identity,
    NoCredentials,
    SlowDown,
    csrf_holds,
    same_origin,
)
from control.api.documents import AuditPage, Done, MigrationInShort, Migrations, Ready, SessionDocument, VerifiedTrail
from control.api.endpoints import CURSOR, DIFFERENCE, ENDPOINTS, LIMIT, REASON, STEP, ApiEndpoint
from control.api.sse import Streams
from control.checks.check import Check
from control.data import differences
from control.data.differences import StaleCursorError
from control.data.documents import DataAnswer
from control.figures import metrics
from control.lead import commands
from control.lead.commands import Command, Malformed
from control.lead.coordinator import Coordinator
from control.lead.datakeeper import DataKeeper, NotBegunError
from control.lead.documents import WouldBeRefused
from control.lead.execution import CommandRefused
from control.lead.receiver import Receiver
from control.plan.settings import Settings
from control.report import build as report
from control.report.documents import TrailHead
from control.report.wording import after_rollback
from control.store.entry import AuditLine, audit_document
from control.store.port import StoreError
from control.store.sqlite import StoreThread
from proxy.board.board import Board

_log = structlog.get_logger("phasegate.api")

BODY_MAX: Final = 64 * 1024
STATIC: Final = Path(__file__).parents[1] / "dashboard"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Server": "phasegate",
}
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
EARLIER_MAX: Final = 20  # earlier names that an error lists
_HTTP: Final = {"store_slow": 503, "store_failed": 503}
NOBODY: Final = Identity("nobody", "viewer")

Plain = Callable[[web.Request], Awaitable[web.StreamResponse]]
Handler = Callable[[web.Request, Identity], Awaitable[web.StreamResponse]]


class Api:
    """The application's handlers, by the endpoint's name."""

    def __init__(
        self,
        settings: Settings,
        coordinators: Mapping[str, Coordinator],
        store: StoreThread,
        gatekeeper: Gatekeeper,
        board: Board,
        dry_run: Callable[[], Awaitable[list[Check]]],
        receivers: Sequence[Receiver] = (),
    ) -> None:
        """``receivers`` are those of webhooks."""
        self._settings = settings
        self._coordinators = coordinators
        self._store = store
        self._gatekeeper = gatekeeper
        self._board = board
        self._dry_run = dry_run
        self._receivers = receivers
        self._streams = Streams(store, _HEADERS)
        # Built once: these calls need no credentials, and building one document takes 5 ms of CPU.
        self._control_document = msgspec.json.encode(openapi.document(_version(), open_to_all=gatekeeper.open))
        self._data_document = msgspec.json.encode(data_openapi.document(_version()))

    def application(self) -> web.Application:
        """The aiohttp application: every endpoint of ``ENDPOINTS``, and the dashboard's files."""
        app = web.Application(client_max_size=BODY_MAX, middlewares=[self._answers])
        for endpoint in ENDPOINTS:
            handler: Handler = getattr(self, f"_{endpoint.name}")
            app.router.add_route(endpoint.method.upper(), endpoint.path, self._guarded(endpoint, handler))
        app.router.add_get("/admin/migration", self._page)
        app.router.add_get("/admin/static/{path:.*}", self._static)
        app.on_shutdown.append(self._streams.end)
        return app

    # Around every call.

    @web.middleware
    async def _answers(self, request: web.Request, handler: Plain) -> web.StreamResponse:
        """Turn every refusal into an error document, and every unexpected exception into a 500 without details."""
        try:
            response = await handler(request)
        except ApiProblem as problem:
            response = problem.answer()
        except web.HTTPRequestEntityTooLarge:
            response = ApiProblem(413, "too_large", f"the body is larger than {BODY_MAX} bytes").answer()
        except web.HTTPMethodNotAllowed as refused:
            allow = ", ".join(sorted(refused.allowed_methods))
            message = f"this path accepts only {allow}"
            response = ApiProblem(405, "method_not_allowed", message, headers={"Allow": allow}).answer()
        except web.HTTPException as other:
            code = "not_found" if other.status == 404 else "refused"
            response = ApiProblem(other.status, code, other.reason).answer()
        except StoreError as error:
            response = ApiProblem(503, "store_failed", f"the store cannot be read: {error}").answer()
        except Exception:
            _log.exception("request_failed", method=request.method, path=request.path)
            response = ApiProblem(500, "internal", "internal error; the log has the details").answer()
        if not response.prepared:
            for name, value in _HEADERS.items():
                response.headers.setdefault(name, value)
        return response

    def _guarded(self, endpoint: ApiEndpoint, handler: Handler) -> Plain:
        role = endpoint.role

        async def guarded(request: web.Request) -> web.StreamResponse:
            if role is None:
                return await handler(request, NOBODY)
            identity = await self._identify(request)
            if not identity.may(role):
                message = f"{identity.name} is a {identity.role}"
                raise ApiProblem(403, "forbidden", message, f"This call needs the role {role}.")
            if endpoint.method != "get":
                self._check_page(request, identity)
            return await handler(request, identity)

        return guarded

    async def _identify(self, request: web.Request) -> Identity:
        headers = request.headers
        try:
            return await self._gatekeeper.identify(
                headers.get("Authorization"), request.cookies.get(COOKIE), _network(request.remote)
            )
        except NoCredentials as error:
            hint = "Send `Authorization: Bearer TOKEN`."
            raise ApiProblem(401, "unauthorized", str(error), hint, {"WWW-Authenticate": "Bearer"}) from None
        except SlowDown as error:
            retry = {"Retry-After": str(int(error.retry_after_s) + 1)}
            raise ApiProblem(429, "slow_down", str(error), "Wait, then use the right token.", retry) from None

    def _check_page(self, request: web.Request, identity: Identity) -> None:
        origins, open_to_all = self._settings.control.origins, self._gatekeeper.open
        if not same_origin(request.headers, request.host, origins, loopback_only=open_to_all):
            raise ApiProblem(
                403, "cross_origin", "the request came from a page of another origin", "Use the dashboard's own page."
            )
        if not csrf_holds(identity, request.headers.get(CSRF_HEADER)):
            message = f"a change by a session must carry the session's token in {CSRF_HEADER}"
            raise ApiProblem(403, "csrf", message, "Reload the page.")

    async def _coordinator(self, request: web.Request) -> Coordinator:
        name = request.match_info["name"]
        coordinator = self._coordinators.get(name)
        if coordinator is None:
            raise await self._no_such(name)
        return coordinator

    async def _trail(self, request: web.Request) -> str:
        """The name of a trail: a migration's, or one that the configuration no longer has."""
        name = request.match_info["name"]
        if name not in self._coordinators and not await self._store.has(name):
            raise await self._no_such(name)
        return name

    async def _no_such(self, name: str) -> ApiProblem:
        """The answer for a name that is no migration's: which there are, and which there were."""
        hint, earlier, renamed_to = f"Known migrations: {', '.join(self._coordinators)}", [], None
        with suppress(StoreError):  # the answer is right without them, too
            names = await self._store.names(len(self._coordinators) + EARLIER_MAX + 1)
            earlier = [one for one in names if one not in self._coordinators]
            renamed_to = await self._store.renamed_to(name)
        if earlier:
            more = " and more" if len(earlier) > EARLIER_MAX else ""
            listed = ", ".join(earlier[:EARLIER_MAX])
            hint += f". Earlier names, of which audit and verify read the trail: {listed}{more}"
        message = "there is no such migration"
        if renamed_to is not None:
            message = f"there is no such migration any more: it goes on as {renamed_to}"
        return ApiProblem(404, "no_such_migration", message, hint)

    # Migrations.

    async def _migrations(self, request: web.Request, who: Identity) -> web.Response:
        return answers.document(Migrations(tuple(_in_short(c) for c in self._coordinators.values())))

    async def _status(self, request: web.Request, who: Identity) -> web.Response:
        return answers.document((await self._coordinator(request)).status())

    async def _act(self, request: web.Request, who: Identity) -> web.Response:
        coordinator = await self._coordinator(request)
        body = await _json(request, "start")
        with _well_formed():
            command = commands.parse(body, who.name)
        if command.dry_run:
            examined, preflight = await asyncio.gather(coordinator.examine(command), self._dry_run())
            made = {check.name for check in examined.checks}
            checks = (*examined.checks, *(check for check in preflight if check.name not in made))
            return answers.document(replace(coordinator.status(), checks=checks, refused=_would_be(examined.refused)))
        return await self._carry_out(coordinator, command)

    async def _reset(self, request: web.Request, who: Identity) -> web.Response:
        reason: str = given(request, REASON)
        return await self._carry_out(await self._coordinator(request), Command("reset", who.name, reason))

    async def _carry_out(self, coordinator: Coordinator, command: Command) -> web.Response:
        # A client that disconnects does not cancel its command: the command runs to its end.
        task = asyncio.ensure_future(coordinator.act(command))
        try:
            await asyncio.shield(task)
        except CommandRefused as refused:
            raise ApiProblem(_HTTP.get(refused.code, 409), refused.code, refused.message, refused.hint) from None
        status = coordinator.status()
        told = after_rollback(status) if command.action == "rollback" else UNSET
        return answers.document(replace(status, message=told))

    async def _audit(self, request: web.Request, who: Identity) -> web.Response:
        name = await self._trail(request)
        limit, cursor = given(request, LIMIT), given(request, CURSOR)
        lines = await self._store.audit(name, limit, None if cursor is None else int(cursor))
        more = len(lines) == limit and lines[-1].seq > 1
        entries = tuple(audit_document(line) for line in lines)
        renamed_to = await self._renamed_to(name)
        return answers.document(AuditPage(entries, str(lines[-1].seq) if more else None, renamed_to))

    async def _verify(self, request: web.Request, who: Identity) -> web.Response:
        name = await self._trail(request)
        trail = await self._store.verify(name)
        renamed_to = await self._renamed_to(name)
        return answers.document(
            VerifiedTrail(not trail.problems, trail.entries, trail.hash, trail.problems, renamed_to)
        )

    async def _renamed_to(self, name: str) -> str | None:
        return None if name in self._coordinators else await self._store.renamed_to(name)

    async def _figures(self, request: web.Request, who: Identity) -> web.Response:
        return answers.document((await self._coordinator(request)).publisher.figures())

    async def _history(self, request: web.Request, who: Identity) -> web.Response:
        history = (await self._coordinator(request)).publisher.history
        response = answers.document(history.document(given(request, STEP)))
        response.enable_compression()  # thousands of similar numbers: compression saves most of the bytes
        return response

    async def _report(self, request: web.Request, who: Identity) -> web.Response:
        coordinator = await self._coordinator(request)
        lines = await self._store.run(coordinator.name)
        # Entries that are not in the store yet belong to the run, too.
        pending = coordinator.outbox.entries
        unsaved = [AuditLine(0, at, entry.kind, entry.actor, entry.detail, "", "") for at, entry in pending]
        settings = coordinator.settings
        run = report.build_report(
            coordinator.name,
            settings.phases,
            settings.thresholds,
            [*lines, *unsaved],
            coordinator.status(),
            coordinator.adapters(),
            TrailHead(lines[-1].seq, lines[-1].hash) if lines else TrailHead(0, None),
        )
        return answers.document(run)

    # Its data.

    async def _data(self, request: web.Request, who: Identity) -> web.Response:
        return answers.document((await self._coordinator(request)).data_document())

    async def _act_on_data(self, request: web.Request, who: Identity) -> web.Response:
        keeper = await self._keeper(request)
        body = await _json(request, "copy")
        with _well_formed():
            wish = commands.parse_data(body)
        if wish.action == "stop":
            return answers.document(DataAnswer(keeper.stop(who.name), keeper.document()))
        try:
            task = await keeper.begin(wish.asked(), who.name)
        except NotBegunError as error:
            raise ApiProblem(_HTTP.get(error.code, 409), error.code, str(error), error.hint) from None
        return answers.document(DataAnswer(task, keeper.document()))

    async def _differences(self, request: web.Request, who: Identity) -> web.Response:
        await self._keeper(request)
        path = differences.path_of(Path(self._settings.proxy.run_dir), request.match_info["name"])
        try:
            found = await asyncio.to_thread(differences.page, path, given(request, LIMIT), given(request, DIFFERENCE))
        except StaleCursorError:
            message = "the cursor is of a list that another compare has replaced"
            raise ApiProblem(409, "stale_cursor", message, "Begin again without a cursor.") from None
        except OSError as error:
            raise ApiProblem(503, "store_failed", f"the differences cannot be read: {error}", "Mend it.") from None
        return answers.document(found)

    async def _data_task(self, request: web.Request, who: Identity) -> web.Response:
        task = (await self._keeper(request)).task(request.match_info["task"])
        if task is None:
            hint = "The audit trail has what came of it."
            raise ApiProblem(404, "no_such_task", "this control process knows of no such task", hint)
        return answers.document(task)

    async def _keeper(self, request: web.Request) -> DataKeeper:
        keeper = (await self._coordinator(request)).data
        if keeper is None:
            message = "this migration is not between document stores: there are no documents to copy or to compare"
            raise ApiProblem(409, "not_allowed", message, "An app behind HTTP moves its data itself.")
        return keeper

    async def _events(self, request: web.Request, who: Identity) -> web.StreamResponse:
        coordinator = await self._coordinator(request)
        return await self._streams.answer(request, coordinator.publisher.hub, coordinator.name, coordinator.status)

    # Sessions.

    async def _session(self, request: web.Request, who: Identity) -> web.Response:
        return answers.document(_session_of(who))

    async def _login(self, request: web.Request, who: Identity) -> web.Response:
        if self._gatekeeper.open or who.session is not None:
            return answers.document(_session_of(who))
        cookie, session = self._gatekeeper.begin(who)
        response = answers.document(SessionDocument(session.name, session.role, session.csrf))
        secure = request.headers.get("Origin", "").startswith("https:") or request.secure
        age = int(self._settings.control.session_s)
        response.set_cookie(COOKIE, cookie, max_age=age, httponly=True, samesite="Strict", secure=secure, path="/")
        return response

    async def _logout(self, request: web.Request, who: Identity) -> web.Response:
        self._gatekeeper.end(request.cookies.get(COOKIE))
        response = answers.document(Done())
        response.del_cookie(COOKIE, path="/")
        return response

    # The process.

    async def _prometheus(self, request: web.Request, who: Identity) -> web.Response:
        text = metrics.exposition(self._board, list(self._coordinators.values()), self._receivers)
        return web.Response(body=text, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _healthz(self, request: web.Request, who: Identity) -> web.Response:
        return answers.document(Done())

    async def _readyz(self, request: web.Request, who: Identity) -> web.Response:
        states = {name: coordinator.state.state for name, coordinator in self._coordinators.items()}
        ready = all(coordinator.ready for coordinator in self._coordinators.values())
        return answers.document(Ready(ready, states), 200 if ready else 503)

    async def _openapi(self, request: web.Request, who: Identity) -> web.Response:
        return answers.written(self._control_document)

    async def _openapi_data(self, request: web.Request, who: Identity) -> web.Response:
        return answers.written(self._data_document)

    # The dashboard.

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return self._file("index.html")

    async def _static(self, request: web.Request) -> web.StreamResponse:
        return self._file(request.match_info["path"])

    def _file(self, name: str) -> web.StreamResponse:
        path = (STATIC / name).resolve()
        if not path.is_relative_to(STATIC) or not path.is_file():
            raise ApiProblem(404, "not_found", "there is no such file")
        headers = {"Content-Security-Policy": _PAGE_POLICY, "Cache-Control": "no-cache"}
        return web.FileResponse(path, headers=headers)


def _would_be(refused: CommandRefused | None) -> WouldBeRefused | None:
    return None if refused is None else WouldBeRefused(refused.code, refused.message, refused.hint)


async def _json(request: web.Request, example: str) -> object:
    """The body. Raises ``ApiProblem``."""
    try:
        body: object = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        expected = f'Expected {{"action": "{example}"}}.'
        raise ApiProblem(400, "malformed", f"the body is not JSON: {error}", expected) from None
    return body


@contextmanager
def _well_formed() -> Iterator[None]:
    """Answer a body that is no command with all its mistakes."""
    try:
        yield
    except Malformed as error:
        raise ApiProblem(400, "malformed", str(error), "openapi.json has the fields of each action.") from None


def _session_of(who: Identity) -> SessionDocument:
    return SessionDocument(who.name, who.role, who.session.csrf if who.session is not None else None)


def _in_short(coordinator: Coordinator) -> MigrationInShort:
    s, settings = coordinator.state, coordinator.settings
    return MigrationInShort(
        name=coordinator.name,
        state=s.state,
        revision=s.revision,
        weight=s.weight_bp / 100,
        phase=None if (phase := coordinator.plan.current(s)) is None else phase.name,
        mode=settings.mode,
        source=settings.source,
        target=settings.target,
        routes=settings.routes,
    )


def _network(remote: str | None) -> str:
    """The address that wrong credentials are counted by. IPv6 counts by /64: one machine may use all of a /64."""
    try:
        address = ipaddress.ip_address(remote or "")
    except ValueError:
        return remote or "unknown"
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)


def _version() -> str:
    try:
        return version("phasegate")
    except PackageNotFoundError:
        return "0"
