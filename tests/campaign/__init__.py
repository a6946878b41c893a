"""A campaign of faults against real servers: `python -m campaign --help`.

A round runs writers in several processes on several stores (`writer`) while servers and writers are killed,
connections are cut and the disk of the journal is full (`faults`, `proxy`), and somebody writes to the same records
without the warehouse (`bypass`). Then what everybody was told is compared with what is there (`findings`), and a
checker from elsewhere judges the history (`judge`). `report` tells it.
"""
