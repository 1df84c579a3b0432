"""Whatever the OpenAPI page allows, and much that it does not, is answered and never with a fault of ours."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from serve.api import build_app
from serve.security import Limits
from tests.integration.test_page import Answering

schema = schemathesis.openapi.from_asgi("/openapi.json", build_app(Answering(), Limits(body_bytes=1 << 20)))


@pytest.mark.filterwarnings("ignore")
@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_is_a_fault_of_ours(case: schemathesis.Case) -> None:
    response = case.call()
    assert response.status_code < 500
    if response.status_code >= 400:
        assert response.headers["content-type"][0] == "application/problem+json"
