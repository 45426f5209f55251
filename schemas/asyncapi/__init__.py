"""The contract as AsyncAPI 3.0: the document, its examples, an HTML page, and which changes break older readers."""
