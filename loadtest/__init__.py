"""Load for rehearsals and benchmarks. Imports none of phasegate's other packages: it sees what a client sees."""
