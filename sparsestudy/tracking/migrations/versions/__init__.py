"""One script per version of the tables. A script that was released is never changed: a further one follows it."""
