"""How the tables of the ledger came about, one script per version; `sparsestudy.tracking.migrating` runs them."""
