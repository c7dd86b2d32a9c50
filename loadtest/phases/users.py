"""The locust user of every phase, and the frame of a run: the live status, the judgement, the exit code.

A locust file of a phase subclasses ``PhaseUser``. PHASEGATE_URL and PHASEGATE_TOKEN give the control plane,
``--host`` the proxy; PHASEGATE_MIGRATION names the migration (phase6), PHASEGATE_APP_PATHS the app's pages (/). With
PHASEGATE_ENTER_PHASE=1 the run first brings the migration to the file's phase, which needs an operator's token.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import time
from collections import Counter, deque
from typing import Any, ClassVar, Final

import gevent
from locust import FastHttpUser, between, events, task
from locust.env import Environment

from loadtest.generator.client import Reply
from loadtest.generator.visitors import Visitor
from loadtest.phases.judgement import GATE, UNREACHABLE, Judgement, Run, judge, phase_name, split_problem
from loadtest.stage.api import ControlApi, ControlApiError

POLL_S: Final = 1.0
CPU_WINDOW: Final = 10  # polls, a second apart
CPU_LOOKS_LEAST: Final = 3  # polls, if the run is shorter than a window
SETTLING_S: Final = 5.0  # after a change of weight, in which either arm may answer a visitor
EXAMPLES_MOST: Final = 8  # of wrong answers, kept as text
ENTER_WITHIN_S: Final = 120.0  # for all phases, each with its pre-flight checks
_ONWARD: Final = {"running": "advance", "paused": "resume", "rolled_back": "resume"}
VISITORS_LEAST: Final = 20  # with fewer the split is not judged

Json = dict[str, Any]


class StatusWatch:
    """Polls the migration's status every second during a run, and measures this process's CPU use."""

    def __init__(self, api: ControlApi) -> None:
        self.api = api
        self.before: Json = {}
        self.status: Json = {}
        self.changed_at = 0.0  # when a change of the weight was last seen, in monotonic seconds
        self.cpu = 0.0  # CPU use in the busiest window
        self._looks: deque[tuple[float, float]] = deque(maxlen=CPU_WINDOW + 1)

    def start(self) -> None:
        """Read the status now, then every second. Raises ``ControlApiError``."""
        self.before = self.status = self.api.status()
        self.changed_at = time.monotonic()
        gevent.spawn(self._poll)

    def _poll(self) -> None:
        while True:
            self.look()
            gevent.sleep(POLL_S)

    def look(self) -> None:
        """Read the status once. A control plane that does not answer is no failure of the visitors' requests."""
        self._looks.append((time.monotonic(), time.process_time()))
        (began, used_before), (now, used) = self._looks[0], self._looks[-1]
        if len(self._looks) == self._looks.maxlen or (now - began >= CPU_LOOKS_LEAST * POLL_S and not self.cpu):
            self.cpu = max(self.cpu, (used - used_before) / (now - began))
        try:
            status = self.api.status()
        except ControlApiError:
            return
        if status["weight"] != self.status["weight"]:
            self.changed_at = time.monotonic()
        self.status = status

    def settled(self, at: float) -> bool:
        """Whether the weight was unchanged for ``SETTLING_S`` before ``at`` (monotonic seconds), and still is."""
        self.look()  # a change in the last second may not have been seen yet
        return at - self.changed_at > SETTLING_S

    @property
    def phase(self) -> str:
        """The live phase's name, or the migration's state if no phase is live."""
        return phase_name(self.status) or str(self.status.get("state", "unknown"))


class Party:
    """All visitors of this process, and examples of wrong answers."""

    def __init__(self) -> None:
        self.visitors: list[Visitor] = []
        self.wrong: Counter[str] = Counter()
        self._numbers = itertools.count()
        self._app_paths = tuple(os.environ.get("PHASEGATE_APP_PATHS", "/").split())

    def join(self, name: str) -> Visitor:
        """A new visitor; its identity is the same in every run, so its bucket is too."""
        number = next(self._numbers)
        identity = f"{name}-{os.environ.get('LOCUST_WORKER_INDEX', '0')}-{number}"
        visitor = Visitor(identity, random.Random(number), app_paths=self._app_paths)  # noqa: S311 - no secret
        self.visitors.append(visitor)
        return visitor

    def note(self, problem: str) -> None:
        """Count a wrong answer, and keep it as an example."""
        if len(self.wrong) < EXAMPLES_MOST or problem in self.wrong:
            self.wrong[problem] += 1

    def split(self, status: Json) -> str | None:
        """What is wrong with the visitors' split over the arms; None if nothing is."""
        source, target = (status["arms"][arm]["backend"] for arm in ("source", "target"))
        decided = [visitor for visitor in self.visitors if visitor.arm]
        if source == target or len(decided) < VISITORS_LEAST:
            return None
        return split_problem(sum(visitor.arm == target for visitor in decided), len(decided), status["weight"])


watch = StatusWatch(ControlApi.from_environment())
party = Party()


class PhaseUser(FastHttpUser):
    """One visitor. ``phase`` is the phase that its file is for; "" follows the live one."""

    abstract = True
    phase: ClassVar[str] = ""
    wait_time = between(0.5, 1.5)
    host = os.environ.get("PHASEGATE_PROXY", "http://127.0.0.1:8080")

    def on_start(self) -> None:
        """Create the visitor."""
        self._visitor = party.join(self.phase or "migration")
        self._seen_change = watch.changed_at

    @task
    def ask(self) -> None:
        """Send one request and judge its answer."""
        if self._seen_change != watch.changed_at:
            self._seen_change = watch.changed_at
            self._visitor.forget_arm()
        request = self._visitor.next()
        began = time.monotonic()
        fields = {"x-user-id": self._visitor.identity}
        if request.body is not None:
            fields["content-type"] = "application/json"
        with self.client.request(
            request.method,
            request.path,
            data=None if request.body is None else request.body.decode(),
            headers=fields,
            name=f"{self.phase or watch.phase} {request.operation}",
            catch_response=True,
            allow_redirects=False,
        ) as response:
            body = response.content or b""
            if not response.status_code:
                body = str(response.error).encode()
            received = {name.lower(): value for name, value in (response.headers or {}).items()}
            reply = Reply(response.status_code, received, body)
            problem = self._visitor.judge(request, reply, settled=lambda: watch.settled(began))
            if problem is None:
                response.success()
            else:
                response.failure(problem.words)
                party.note(f"{request.operation}: {problem.words}")


def _phase_of(environment: Environment) -> str:
    phases = {user.phase for user in environment.user_classes if issubclass(user, PhaseUser)}
    return phases.pop() if len(phases) == 1 else ""


def _enter(api: ControlApi, phase: str) -> None:
    """Bring the migration to ``phase``, step by step. Raises ``ControlApiError``."""
    status = api.status()
    names = [each["name"] for each in status["phases"]]
    if phase not in names:
        raise ControlApiError(f"there is no phase {phase!r}: expected one of {', '.join(names)}", 404)
    deadline = time.monotonic() + ENTER_WITHIN_S
    while phase_name(status) != phase or status["state"] != "running":
        if time.monotonic() > deadline:
            raise ControlApiError(f"the migration did not come to phase {phase}: it is {status['state']}")
        live = phase_name(status)
        if live and names.index(live) > names.index(phase):
            raise ControlApiError(
                f"the migration is in phase {live}, which comes after {phase}: roll it back first", 409
            )
        action = _ONWARD.get(status["state"], "start") if live else "start"
        status = api.act(action, reason=f"a load test of phase {phase}")


def _give_up(environment: Environment, code: int, message: str) -> None:
    environment.process_exit_code = code
    print(f"loadtest: {message}", flush=True)
    if environment.parsed_options is not None and environment.parsed_options.headless:
        sys.exit(code)  # at once, because locust's own exit waits until the run time is over
    if environment.runner is not None:
        environment.runner.quit()


@events.test_start.add_listener  # type: ignore[untyped-decorator]  # locust's events are untyped
def _begin(environment: Environment, **_: object) -> None:
    phase = _phase_of(environment)
    try:
        if phase and os.environ.get("PHASEGATE_ENTER_PHASE"):
            _enter(watch.api, phase)
        watch.start()
    except ControlApiError as error:
        _give_up(environment, GATE if error.status else UNREACHABLE, str(error))
        return
    live, state = phase_name(watch.status), watch.status["state"]
    if phase and (live != phase or state != "running"):
        where = f"in phase {live}" if live and state == "running" else state
        _give_up(
            environment, GATE, f"this is the load of phase {phase}; {watch.status['migration']} is {where}: "
            "bring it there, or have the run do it (--enter, PHASEGATE_ENTER_PHASE=1)"
        )  # fmt: skip


@events.quitting.add_listener  # type: ignore[untyped-decorator]  # likewise
def _end(environment: Environment, **_: object) -> None:
    if environment.process_exit_code is not None or not watch.before or environment.stats is None:
        return
    judgement = _judged(environment)
    environment.process_exit_code = judgement.code
    verdict = "passed" if judgement.code == 0 else "NOT PASSED"
    print("\n".join([f"loadtest: {verdict}, by phasegate's own histograms:", *(f"  {r}" for r in judgement.reasons)]))
    print(_compared(environment), flush=True)


def _judged(environment: Environment) -> Judgement:
    try:
        after = watch.api.status()
    except ControlApiError as error:
        return Judgement(UNREACHABLE, [str(error)])
    watch.look()
    phase = _phase_of(environment)
    total = environment.stats.total
    examples = [f"{problem} ({count} times)" for problem, count in party.wrong.most_common(EXAMPLES_MOST)]
    split = party.split(after) if phase else None
    run = Run(phase, total.num_requests, total.num_failures, watch.cpu, examples, split)
    return judge(run, watch.before, after)


def _compared(environment: Environment) -> str:
    """Locust's and phasegate's p99 side by side: they differ, and only phasegate's decides."""
    total, target = environment.stats.total, watch.status["arms"]["target"]
    seen = total.get_response_time_percentile(0.99) if total.num_requests else 0
    own = "-" if target["p99_ms"] is None else f"{target['p99_ms']:.2f}"
    return (
        f"loadtest: locust saw a p99 of {seen:.0f} ms over everything, phasegate one of {own} ms on the target; "
        f"the generator's busiest ten seconds: {watch.cpu:.0%} of a core"
    )
