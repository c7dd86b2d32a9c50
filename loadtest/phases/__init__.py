"""What the locust files of the phases share: users, the run, and the judgement of it."""
