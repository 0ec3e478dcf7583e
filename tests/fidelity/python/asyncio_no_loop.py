import asyncio
try:
    asyncio.get_running_loop()
except RuntimeError as error:
    print(error)
print(asyncio.run(asyncio.sleep(0, "ran")))
