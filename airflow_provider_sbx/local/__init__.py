"""The embedded sandbox server: the service's API on loopback, with real processes.

For development, tests and demonstrations, as moto and LocalStack are for other services. Run it
with `sbx-local serve`, or put `airflow_provider_sbx.local.app.create_app` into a server of your
own. It imports `api/` only: never Airflow, never our own client, so that a mistake in the client
can't hide behind the same mistake here.
"""
