"""What the locust files of the phases share: users, the run, and phasegate's judgement of it."""
