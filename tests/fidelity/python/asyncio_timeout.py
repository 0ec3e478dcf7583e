import asyncio
async def main():
    try:
        async with asyncio.timeout(0.01): await asyncio.sleep(5)
    except TimeoutError as error: print("timeout", repr(error))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0, n)) for n in range(3)]
    print([t.result() for t in tasks])
asyncio.run(main())
