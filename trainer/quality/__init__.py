"""How far what people say can be believed: who contradicts everybody, how much people agree, and gold items."""
