"""The engine as a process: its entry, its child handle, the link and the client of the API's side."""
