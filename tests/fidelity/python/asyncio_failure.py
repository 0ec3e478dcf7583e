import asyncio
async def bad():
    await asyncio.sleep(0)
    raise ValueError("in a coroutine")
asyncio.run(bad())
