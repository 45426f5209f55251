"""Whether what is published can be stored: the disk's room, the broker's own word, and a message that is stored."""
