"""Answers that are stored for clients: the database, and the chats and responses in it."""
