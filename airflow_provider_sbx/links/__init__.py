"""Links from Airflow's pages to the service's."""
