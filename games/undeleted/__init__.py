"""The undeleted game: exact results after deletions, in which a requester reads other people's records."""
