-- Run once, by an empty PostgreSQL: Prefect's database is there ($POSTGRES_DB), MLflow's is made here.
CREATE DATABASE mlflow;
