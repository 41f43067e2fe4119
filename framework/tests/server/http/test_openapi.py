"""The server against its own description: no request that it describes, or that contradicts it, fails with 500, and answers are as described."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS
from server_fakes import FakeEngine, build_app

from dovetail.server.settings import ServerSettings

ENGINE = FakeEngine()
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", build_app(ENGINE, ServerSettings(allowed_adapter_path=["/"])))


def check(case: schemathesis.Case) -> None:
    ENGINE.sleeping = False  # as one of the routes has it do, whereupon others rightly answer 503
    ENGINE.adapters.clear()
    ENGINE.running.clear()
    # That parameters contradict each other, or do not fit the model, is for the answer to say: a schema cannot.
    case.call_and_validate(excluded_checks=[CHECKS.get_one("positive_data_acceptance")])


few = settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
)
many = settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)


@SCHEMA.parametrize()
@few
def test_requests_as_described(case: schemathesis.Case) -> None:
    check(case)


@pytest.mark.sweep
@SCHEMA.parametrize()
@many
def test_many_requests_as_described(case: schemathesis.Case) -> None:
    check(case)
