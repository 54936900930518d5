"""The workers: claim units of work from the database and have a child process do them."""
