"""Our stack against strongSwan: the cells of the matrix as data, their lives in namespaces, their
verdicts. `cells` are the values, `matrix` is the list, `story` runs in the sandbox, `runs` around
it."""
