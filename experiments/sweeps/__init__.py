"""Many games: cells, launchers, progress and the table at the end."""
