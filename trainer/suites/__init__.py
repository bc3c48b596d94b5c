"""Fixed suites: questions with patterns that a right answer must and must not contain, the same for every version."""
