"""The language of the sandbox service: models, requests, answers, errors, decisions.

Pure: standard library and pydantic only. Nothing here opens a socket, reads a clock
by itself or knows Airflow, so the worker's loop, the trigger and the embedded server
can share one truth and none of them can drift.
"""
