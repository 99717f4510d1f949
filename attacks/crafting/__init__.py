"""How requesters craft their deletions: the role, the chores, what is minimised, and the searches."""
