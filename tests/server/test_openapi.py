"""A whole server, on the embedded model, against its own description of its API. Over a fake engine, with many more requests: framework/tests/server/http/test_openapi.py."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS

from ..serving import serving

few = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def check(case: schemathesis.Case) -> None:
    case.call_and_validate(excluded_checks=[CHECKS.get_one("positive_data_acceptance")])


def test_requests_as_described() -> None:
    with serving("--max-model-len", "128", "--override-generation-config", '{"max_tokens": 8}') as server:
        # Asleep, it would rightly answer 503 to whatever comes next.
        described = schemathesis.openapi.from_url(f"{server.url}/openapi.json").exclude(path="/sleep")
        operations = [found.ok() for found in described.get_all_operations()]
        assert len(operations) > 20
        for operation in operations:
            few(given(case=operation.as_strategy())(check))()
        assert not any("Traceback" in line for line in server.log), server.log
