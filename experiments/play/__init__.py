"""One game: its configuration becomes parts, is played, shown and written."""
