import asyncio
async def bad(): raise ValueError("never retrieved")
async def main():
    asyncio.create_task(bad())
    await asyncio.sleep(0.01)
asyncio.run(main())
print("end")
