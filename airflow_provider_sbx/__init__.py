"""Apache Airflow provider for running processes in remote sandboxes.

Importing this package costs nothing: the parts live in the submodules that
`get_provider_info` names.
"""

__version__ = "0.1.0"
