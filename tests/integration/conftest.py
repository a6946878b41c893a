from integration import crash_points


def pytest_terminal_summary(terminalreporter):
    covered = crash_points.COVERED
    if not covered:
        return
    terminalreporter.section("crashes")
    terminalreporter.write_line(
        f"processes were killed {covered.total()} times, at {len(covered)} kinds of boundary, and recovered"
    )
    missed = crash_points.missed()
    if missed and not terminalreporter.config.option.keyword:
        terminalreporter.write_line(f"never killed at: {', '.join(missed)}", red=True)
        terminalreporter._session.exitstatus = 1
