"""Who connects to the broker: its address, the login of a connection, and the users of the embedded broker."""
