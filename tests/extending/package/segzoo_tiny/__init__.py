"""One of each thing that segzoo can be extended with."""
