import random, uuid, secrets
random.seed(42)
print(random.random(), random.randint(1, 100), random.sample(range(10), 3))
print(uuid.uuid4() != uuid.uuid4(), len(secrets.token_hex(8)))
