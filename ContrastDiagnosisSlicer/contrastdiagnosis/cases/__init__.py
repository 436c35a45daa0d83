"""The cases: the support set, its pictures, how case folders are read, the vote."""
