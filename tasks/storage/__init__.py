"""Behind the store: the connection to MLflow, outputs on their way there, checked copies of what comes back."""
