"""Running a generation request: sampling parameters, the job on the engine, and the response, whole or as server-sent
events.
"""
