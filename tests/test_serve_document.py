"""schemathesis attacks the service along its OpenAPI document.

Left out is one check, that what fits the schema is accepted: a schema cannot say that a text is a
whole picture, or that there are as many lines as pictures, and refusing those is the point.
"""

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from impasto.rewards import LocalReward
from impasto.serve.app import make_app
from tests.fakes import FakeRewards

RIGHT = {"Authorization": "Bearer secret"}
APP = make_app(LocalReward(FakeRewards()), token="secret")
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP, headers=RIGHT)


@SCHEMA.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, database=None,
          phases=[Phase.explicit, Phase.generate],
          suppress_health_check=list(HealthCheck))  # fmt: skip
def test_nothing_is_found(case):
    case.call_and_validate(headers=RIGHT, excluded_checks=[positive_data_acceptance])
