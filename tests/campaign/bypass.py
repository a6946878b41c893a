"""Somebody who writes to the same records without the warehouse: `python -m campaign.bypass CONFIG`."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from campaign.history import Log
from campaign.layout import Layout, records_of
from campaign.processes import is_over
from campaign.vaults import VAULTS, Vault

_PAUSE = 0.02  # seconds


def main(config: dict[str, Any]) -> None:
    folder = Path(config["folder"])
    log = Log(folder / "history-bypass.jsonl", "bypass")
    chance = random.Random(f"{config['seed']} bypass")
    vaults: dict[str, Vault] = {}
    while not is_over(config):
        tag = chance.choice(list(config["urls"]))
        group = chance.choice(records_of(tag))
        try:
            if tag not in vaults:
                vaults[tag] = VAULTS[tag](config["urls"][tag], Layout(config["records"]))
        except Exception:  # noqa: BLE001 - every driver has errors of its own
            time.sleep(_PAUSE)
            continue
        log.write("invoke", "bypass", {"group": group, "tags": [tag]})
        try:
            vaults[tag].touch(group)
        except Exception as error:  # noqa: BLE001
            log.write("info", "bypass", {"told": type(error).__name__})
            vaults.pop(tag).close()
        else:
            log.write("ok", "bypass", {"told": "written"})
        time.sleep(_PAUSE)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
