-- Run once, when PostgreSQL's volume is empty. The ledger's database, sparsestudy, is made by the image itself.
CREATE DATABASE mlflow OWNER sparsestudy;
