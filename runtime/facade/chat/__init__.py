"""A chat request on its way: read, claimed, followed as a turn, answered whole or in chunks."""
