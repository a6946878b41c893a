import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
ORDERS = """\
order-1: completed
order-2: compensated - take_desk (records, stock.expect): expected affected_rows 1, found 0
order-3: completed
stock: {'desk': 0, 'lamp': 0}
orders: 2
payments: 2
OrderEvent: 2
behaviours: 1
"""
USERS = """\
transaction create eve compensated: step_0 (records, accounts): UNIQUE constraint failed: accounts.email
accounts: 2
profiles: 2
User: 2
users: 2
profiles: [{'name': 'Ada', 'followers': 1}, {'name': 'Bob', 'following': 1}]
most alike: ada
"""


ONBOARDING = """\
onboard:ada: held; accounts: 0
onboard:ada: completed: mailbox of ada@example.com
onboard:bob: held; accounts: 1
onboard:bob: compensated: bob@example.org is nobody
accounts: ['ada']
users: ['ada']
"""


@pytest.mark.parametrize(
    ("program", "output"), [("orders.py", ORDERS), ("users.py", USERS), ("onboarding.py", ONBOARDING)]
)
def test_the_examples_print_what_they_should(tmp_path, program, output):
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == (output, "", 0)
    assert not list(tmp_path.iterdir())
    assert len((EXAMPLES / program).read_text().splitlines()) < 100
