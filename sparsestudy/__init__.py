"""sparsestudy."""
