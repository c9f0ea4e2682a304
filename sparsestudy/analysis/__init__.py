"""Analysis: tables, pictures and the page, from recorded trials alone."""
