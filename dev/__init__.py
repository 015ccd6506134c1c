"""What the developers of the package use: the demo, and a real Airflow for the tests. Not shipped."""
