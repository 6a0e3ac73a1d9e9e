"""The parts of benches/run: peers, rows, goals, report, plot."""
