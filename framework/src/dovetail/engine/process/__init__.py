"""The engine as a process of its own: its entry point, and the client in the API's process."""
