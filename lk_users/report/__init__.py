"""What a run came to, for people and for programs: folds over records, live or from disk."""
