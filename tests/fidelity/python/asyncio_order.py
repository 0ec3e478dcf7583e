import asyncio
async def main():
    loop = asyncio.get_running_loop()
    loop.call_soon(print, "soon")
    task = asyncio.create_task(asyncio.sleep(0, "slept"))
    print("main")
    print(await task)
    await asyncio.gather(*(asyncio.sleep(0.01 * n, print(n)) for n in range(3)))
asyncio.run(main())
