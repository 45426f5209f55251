"""The contract as AsyncAPI 3.0: the document, its examples, its page, and what breaks an older one."""
